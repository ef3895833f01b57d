"""Cost and latency of the reports of two workers to Ray Train, a part of benchmarks/training.py."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train.torch import TorchTrainer

from benchmarks.reporting import Row
from benchmarks.training_loops import make_benchmark_corpus, project_steps
from cluster.connection import connect
from cluster.message_queue import MessageFile, MessageFilePoller
from jobs.training.history import Epoch, EpochReport
from jobs.training.monitor import POLL_INTERVAL_S, RunCallback
from jobs.training.process_group import ProcessGroup
from jobs.training.run_files.reporter import Reporter, do_nothing
from jobs.training.train import REPORT_INTERVAL_S

STEPS_PER_EPOCH = 4  # of 256 rows: fractions of a second
NUM_WORKERS = 2
EPOCH = Epoch(1, 0.5, 0.5, 0.9, 0.9, 1000.0, 1.0)


def compare_reports(data: Path, epochs: int, rounds: int) -> tuple[str, list[Row]]:
    """Return the source of the texts, and the duration of an epoch of two workers by how it is reported."""
    latencies: list[float] = []

    def handle(messages: list[tuple[str, Any]]) -> None:
        latencies.extend(time.time() - sent for _, sent in messages)

    with tempfile.TemporaryDirectory() as folder, connect(num_cpus=NUM_WORKERS):
        config = {"data": str(data), "epochs": epochs, "rounds": rounds, "path": f"{folder}/run"}
        with MessageFilePoller(MessageFile(), handle, POLL_INTERVAL_S) as poller:
            run_config: Any = ray.train.RunConfig  # annotated with older classes
            callbacks = [RunCallback(poller.queue.put)]
            result: Any = TorchTrainer(
                measure_sides,
                train_loop_config=config,
                scaling_config=ray.train.ScalingConfig(num_workers=NUM_WORKERS),
                run_config=run_config(name="run", storage_path=folder, callbacks=callbacks),
            ).fit()
        source, seconds = result.return_value
    none = statistics.median(seconds["none"])
    return source, [
        {
            "reports": side,
            "seconds an epoch": (median := statistics.median(values)),
            "longer by, %": 100 * (median / none - 1),
            "until the driver has it, s": statistics.median(latencies) if side == "every second" else None,
        }
        for side, values in seconds.items()
    ]


def measure_sides(config: dict[str, Any]) -> tuple[str, dict[str, list[float]]]:
    """Train as a worker, with the sides alternately; return the source of the texts and seconds of epochs by side."""
    torch.set_num_threads(1)
    context = ray.train.get_context()
    group = ProcessGroup(context.get_world_rank(), context.get_world_size())
    group.enable_shared_memory()
    corpus, source = make_benchmark_corpus("mr", 10_662, Path(config["data"]))
    steps = project_steps(corpus, "non-static", 256, "cpu", group=group)
    reporter = Reporter(config["path"], group, REPORT_INTERVAL_S, None)
    checkpoint = ray.train.Checkpoint(f"{config['path']}/epoch-0001")

    def report_in_background() -> None:
        if reporter.is_due():
            reporter.add_message("sent", time.time())
            reporter.submit(do_nothing, [EPOCH])

    def report_and_wait() -> None:
        mode = ray.train.CheckpointUploadMode.NO_UPLOAD
        ray.train.report(EpochReport(EPOCH), checkpoint, checkpoint_upload_mode=mode)

    sides = {"none": do_nothing, "every second": report_in_background, "every epoch, waiting": report_and_wait}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(config["rounds"]):
        for side, report in sides.items():
            values = list(time_epochs(steps, report, config["epochs"]))
            reporter.wait()
            seconds[side] += [sum(values) / len(values)]
    return source, seconds


def time_epochs(steps: Iterator[int], report: Callable[[], None], epochs: int) -> Iterator[float]:
    """Train and report epochs; yield the seconds of each."""
    next(steps)
    for _ in range(epochs):
        start = time.perf_counter()
        for _ in range(STEPS_PER_EPOCH):
            next(steps)
        report()
        yield time.perf_counter() - start
