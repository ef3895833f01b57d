"""Benchmarks: each runs in a small form, and its last line is a JSON object with its metrics."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from benchmarks import imbalance, ingest, languages, multi_label, serving, typing_errors
from cluster.package import REPOSITORY

pytestmark = pytest.mark.benchmark


def run(name: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a benchmark as a script and return the metrics of its last line."""
    command = [sys.executable, f"benchmarks/{name}.py", *arguments]
    result = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout.splitlines()[-1])
    assert metrics["benchmark"] == name
    assert metrics["machine"]["cores"] >= 1
    return metrics


def test_reading_vectors() -> None:
    """Both sides read the same words; reading as a stream needs less memory."""
    metrics = run("vectors", "--words", "30000", "--vocabulary", "500", "--runs", "1")
    ours, gensim = metrics["reading"]
    assert [ours["side"], gensim["side"]] == ["this project", "gensim"]
    assert 0 < ours["peak MB"] < gensim["peak MB"]


def test_training_vectors() -> None:
    """Both commands train on the same file."""
    metrics = run("pretraining", "--quick", "--words", "20000")
    assert [row["side"] for row in metrics["training"]] == ["this project", "gensim"]
    assert all(row["words a second"] > 0 for row in metrics["training"])


def test_trackers() -> None:
    """Both sides log in MLflow and in Weights & Biases."""
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    metrics = run("trackers", "--quick")
    sides = [(row["log in"], row["side"]) for row in metrics["logs"]]
    assert sides == list(product(("MLflow", "Weights & Biases"), ("this project", "Ray Tune's callback")))
    assert all(row["seconds per trial"] > 0 for row in metrics["logs"])


def test_commands(shared_data: Path) -> None:
    """Every installed side trains on the tickets; this project predicts with what it wrote, and starts with Ray."""
    metrics = run("commands", "--quick", "--rows", "500")
    sides = {row["side"]: row["seconds"] for row in metrics["training"]}
    assert {"this project", "hand-written script", "TF-IDF, linear SVC"} <= sides.keys()
    assert all(seconds > 0 for seconds in sides.values())
    assert [row["rows"] for row in metrics["prediction"]] == [500]
    assert [row["start of"] for row in metrics["starts"]] == ["two workers", "search", "service"]
    assert all(row["seconds"] > 0 for row in metrics["starts"])


def test_prediction() -> None:
    """Every side labels the same rows; after kills no row is lost, there twice, or labelled again."""
    metrics = run("prediction", "--quick")
    assert [sum(row["side"].startswith("this project") for row in metrics[name]) for name in ("speed", "lines")] == [
        3,
        1,
    ]
    assert all(row["rows/s"] > 0 and 20 < row["peak MB"] < 2000 for row in [*metrics["speed"], *metrics["lines"]])
    assert [row["rows"] for row in metrics["cluster"]] == [20_000, 20_000]
    assert [row["rows"] for row in metrics["memory"]] == [40_000]
    assert 20 < metrics["memory"][0]["sum MB"] < 2000
    assert [row["number of parts"] for row in metrics["driver"]] == [1, 20]
    [row] = metrics["kills"]
    assert (row["kills of the command"], row["of a worker"]) == (1, 1)
    assert row["rows"] == 5_000 * row["folders"] > 0
    assert row["lost"] == row["duplicated"] == row["parts written again"] == row["partial files"] == 0


def test_ingest() -> None:
    """All sides read the same rows; the second run reads the cache of the first."""
    metrics = run("ingest", "--quick")
    rows = {row["side"]: row for row in metrics["ingest"]}
    assert set(ingest.SIDES) - {ingest.FASTTEXT} <= rows.keys()
    assert [row["side"] for row in metrics["large"]] == [ingest.FIRST, ingest.SECOND]
    assert all(row["words/s"] > 0 and 20 < row["peak MB"] < 2000 for row in [*rows.values(), *metrics["large"]])
    assert [row["side"] for row in metrics["order"]] == ["one block", "blocks"]


def test_kim2014(shared_data: Path, ray_environment: dict[str, str], tmp_path: Path) -> None:
    """All four embeddings on TREC; a training in the results file is not repeated."""
    arguments = ("--quick", "--results", str(tmp_path / "results.jsonl"))
    metrics = run("kim2014", *arguments, RAY_TMPDIR=ray_environment["RAY_TMPDIR"])
    assert [row["embedding"] for row in metrics["accuracy"]] == ["rand", "static", "non-static", "multichannel"]
    assert all(60 < row["accuracy"] < 100 for row in metrics["accuracy"])
    results = tmp_path / "results.jsonl"
    assert len(results.read_text().splitlines()) == 4
    assert run("kim2014", *arguments)["accuracy"] == metrics["accuracy"]
    assert len(results.read_text().splitlines()) == 4


def test_accuracy(shared_data: Path, ray_environment: dict[str, str]) -> None:
    """This project and the SVC on TREC."""
    [row] = run("accuracy", "--quick", RAY_TMPDIR=ray_environment["RAY_TMPDIR"])["accuracy"]
    assert row["set"] == "trec"
    assert all(60 < row[classifier] < 100 for classifier in ("this project", "TF-IDF, linear SVC"))


def test_default_search(shared_data: Path, ray_environment: dict[str, str]) -> None:
    """The default settings, the best trial and the refit on TREC."""
    metrics = run("default_search", "--quick", RAY_TMPDIR=ray_environment["RAY_TMPDIR"])
    [row] = metrics["sets"]
    assert row["set"] == "trec"
    assert all(60 < row[side] < 100 for side in ("default", "best trial", "refit"))
    assert metrics["searches"][0]["trials"] >= 1


def test_imbalance(shared_data: Path) -> None:
    """Default and chosen settings with and without weights of the classes, and the SVC, on a part of the sections."""
    rows = run("imbalance", "--quick")["sides"]
    assert [row["side"] for row in rows] == [*imbalance.SIDES, imbalance.SVC]
    assert all(0 < row["macro F1"] < row["accuracy"] < 100 for row in rows)


def test_multi_label(shared_data: Path) -> None:
    """The SVC, and default and chosen settings with several labels per text."""
    rows = run("multi_label", "--quick")["sides"]
    assert [row["side"] for row in rows] == [multi_label.SVC, *multi_label.SIDES]
    assert all(0 < row["macro F1"] < row["micro F1"] < row["P@1"] < 100 for row in rows)


def test_typing_errors(shared_data: Path) -> None:
    """On TREC fewer words are unknown with the setting, and errors cost less accuracy."""
    metrics = run("typing_errors", "--quick")
    rows = metrics["accuracy"]
    assert [(row["side"], row["errors, %"]) for row in rows] == [
        (side, share) for side in typing_errors.SIDES for share in typing_errors.SHARES
    ]
    assert all(row["unknown words, %"] > row["with distance 1"] for row in rows)
    assert all(row["gain"] > 1 for row in rows if row["errors, %"] == 20)
    assert metrics["costs"][0]["index MB"] > 1


def test_languages() -> None:
    """Every tokenizer on generated texts without spaces; without apt nothing is measured."""
    metrics = run("languages", "--quick")
    rows = {row["tokenizer"]: row for row in metrics["accuracy"]}
    assert list(rows) == list(languages.TOKENIZERS)
    assert rows["words"]["unknown"] > 20 > rows["unicode"]["unknown"]
    assert metrics["choices"][0]["chosen"] in languages.TOKENIZERS[1:]
    with pytest.raises(AssertionError, match="cannot be downloaded with apt, so nothing is measured"):
        run("languages", PATH="/nowhere")


def test_calibration(shared_data: Path) -> None:
    """The temperature changes the scores, and no label."""
    [row] = run("calibration", "--quick")["sets"]
    assert row["set"] == "trec"
    assert row["temperature"] != 1
    assert row["accuracy"] == row["accuracy without it"] > 60
    assert 0 < row["error"] != row["error without it"]


def test_training_speed(tmp_path: Path, ray_environment: dict[str, str]) -> None:
    """Both sides train on short and long texts; tables are short and long; two workers report."""
    arguments = ("--quick", "--data", str(tmp_path / "nothing"))
    metrics = run("training", *arguments, RAY_TMPDIR=ray_environment["RAY_TMPDIR"])
    for table in ("short", "long"):
        assert [row["embedding"] for row in metrics[table] if row["precision"] == "float32"] == ["static", "non-static"]
        assert all(row["times"] == row["this project"] / row["usual loop"] > 0 for row in metrics[table])
        assert all(0 < row["matrix product"] < 1 for row in metrics[table])
    assert [row["words"] for row in metrics["vocabulary"]] == ["20,002", "400,000"]
    rows = [row for row in metrics["batches"] if row["precision"] == "float32"]
    assert [(row["embedding"], row["batch"]) for row in rows] == [
        ("static", 50), ("static", 256), ("non-static", 50), ("non-static", 256)
    ]  # fmt: skip
    for row in rows:
        assert row["times"] == row["this project"] / row["usual loop"] > 0
        assert row["of bound"] == row["this project"] / row["bound"] > 0
    assert rows[0]["distinct words"] < rows[1]["distinct words"]
    assert [row["reports"] for row in metrics["reports"]] == ["none", "every second", "every epoch, waiting"]
    assert 0 < metrics["reports"][1]["until the driver has it, s"] < 10


def test_workers(tmp_path: Path) -> None:
    """One and two workers train, through shared memory and gloo; a step of more workers sends more."""
    metrics = run("workers", "--quick", "--data", str(tmp_path / "nothing"))
    for batch in (64, 256):
        alone, *both = [row for row in metrics["speed"] if row["batch"] == batch]
        assert (alone["workers"], alone["MB a step"], alone["times"]) == ("alone", 0, 1)
        assert both[-1]["workers"] == "2, gloo"
        assert {row["MB a step"] for row in both} == {both[0]["MB a step"]} != {0}
        assert all(row["times"] > 0 for row in both)
    rows = [(row["batch"], row["rows"], row["workers"]) for row in metrics["scaling"]]
    assert rows == [("fixed", 256, 1), ("fixed", 256, 2), ("growing", 128, 1), ("growing", 256, 2)]
    assert [row["times"] for row in metrics["scaling"][::2]] == [1, 1]
    assert 0 == metrics["scaling"][0]["MB a step"] < metrics["scaling"][1]["MB a step"]


def test_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    """Every kernel of a step fits into the registers of an H100."""
    pytest.importorskip("triton")
    metrics = run("gpu_kernels", "--quick", TRITON_CACHE_DIR=str(tmp_path))
    assert len(metrics["kernels"]) == 7
    assert {row["spilled bytes"] for row in metrics["kernels"]} == {0}


def test_training_speed_on_a_gpu_needs_only_torch_and_numpy(tmp_path: Path) -> None:
    """`--device cuda` imports nothing else; numba is used only on the CPU."""
    script = (
        "import sys\n"
        "absent = 'ray gensim pydantic yaml pyarrow scipy sklearn pandas numba safetensors rich'.split()\n"
        "sys.modules |= dict.fromkeys(absent)\n"
        "import torch\n"
        "from pathlib import Path\n"
        "from benchmarks import training, training_loops\n"
        "from tests.gpu_path import use_gpu_path\n"
        "import pytest\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        "    use_gpu_path(patch)\n"
        f"    corpus, source = training_loops.make_benchmark_corpus('mr', 200, Path({str(tmp_path)!r}))\n"
        "    print(source, next(training.project_steps(corpus, 'non-static', 50, 'cpu')))\n"
        f"    sys.argv[1:] = ['--quick', '--data', {str(tmp_path)!r}, '--batch-sizes', '50']\n"
        "    sys.argv += ['--only', 'batches', 'steps']\n"
        "    training.main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    first, *_, last = result.stdout.splitlines()
    assert first == "random, as long as mr 50"
    for table in ("batches", "steps"):
        assert {row["batch"] for row in json.loads(last)[table]} == {50}


def test_inference(shared_data: Path) -> None:
    """Every side classifies the same texts, and ratios are relative to this project."""
    metrics = run("inference", "--quick")
    sides = {row["side"]: row for row in metrics["speed"]}
    assert {"this project", "torch, this project", "torch, conv1d"} <= set(sides)
    ours = sides["this project"]
    for row in sides.values():
        assert row["x ours, 32"] == pytest.approx(row["lists of 32"] / ours["lists of 32"], rel=0.02, abs=0.02)
    english, *others = metrics["scripts"]
    assert [english[f"x English, {batch}"] for batch in (1, 32, 256)] == [1, 1, 1]
    assert all(row["bytes"] > english["bytes"] and row["x English, 32"] > 0 for row in others)
    assert len(metrics["cold"]) == 3


def test_kernels(tmp_path: Path) -> None:
    """Every side computes from the same inputs; scipy's products are equal to the last bit."""
    metrics = run("kernels", "--quick", "--data", str(tmp_path / "nothing"))
    for name in ("mr", "imdb"):
        ours, transposed, with_torch = metrics[f"products, {name}"]
        assert (ours["epoch, x ours"], ours["difference"], transposed["difference"]) == (1, 0, 0)
        assert 0 < with_torch["difference"] < 1e-6
        ours, copies, sparse_adam, *dense = metrics[f"adam, {name}"]
        assert (ours["epoch, x ours"], ours["difference"]) == (1, 0)
        assert 0 < copies["difference"] < 1e-5 < sparse_adam["difference"]
        assert [row["side"] for row in dense] == ["Adam, fused", "Adam, foreach"]
    assert [row["rows"] for row in metrics["dropout"]] == [50, 256, 4096]
    assert all(row["times"] == row["numpy"] / row["this project"] > 0 for row in metrics["dropout"])


def test_the_prefetch_instruction_is_measured(shared_data: Path) -> None:
    """A kernel without the instruction is another one."""
    ours, without = run("kernels", "--quick")["prefetch"]
    assert (ours["x ours, 1"], ours["x ours, 256"]) == (1, 1)
    assert 0 < without["x ours, 256"] != 1


def test_chaos() -> None:
    """A run whose worker and controller are killed has the result of an undisturbed run and loses no checkpoint.

    Drivers are killed in tests/jobs/training/test_train.py, hosts in tests/jobs/training/test_nodes.py.
    """
    metrics = run("chaos", "--quick")
    assert [row["killed"] for row in metrics["kills"]] == ["worker", "controller"]
    for row in metrics["kills"]:
        assert row["kills"] == 1, row
        assert row["same"] is True, row
        assert row["lost, steps"] == 0, row


def test_precision(shared_data: Path) -> None:
    """Training works with both precisions."""
    metrics = run("precision", "--quick")
    assert [row["precision"] for row in metrics["accuracy"]] == ["float32", "bfloat16"]
    assert all(row["accuracy"] > 50 for row in metrics["accuracy"])


def test_table_types(shared_data: Path) -> None:
    """No label changes with the table in int16, and the differences are within the limit, that of the longest text."""
    [row] = run("table_types", "--quick")["difference"]
    assert row["changed labels"] == 0
    assert 0 < row["logits, difference"] < min(row["limit"], 1e-2)
    assert row["words in the table"] >= row["in float32"]


def test_quantization(shared_data: Path) -> None:
    """With the default bits a checkpoint has less than a quarter of its size, and nearly the same labels."""
    rows = {row["model"]: row for row in run("quantization", "--quick")["models"]}
    assert rows["6 bits"]["% of size"] < 25
    assert rows["6 bits"]["changed"] <= 1
    assert rows["4 bits, 5,000 words"]["MB"] < rows["4 bits"]["MB"] < rows["checkpoint"]["MB"]
    if find_spec("fasttext"):  # the extra `bench`, which is not in the lock
        assert rows["fastText, words, compressed"]["MB"] < rows["fastText, words"]["MB"]


def test_label_noise(shared_data: Path) -> None:
    """Of the hundred most suspicious rows of TREC most are changed ones, with each of three seeds."""
    metrics = run("label_noise", "--quick")
    [row] = metrics["labels"]
    assert metrics["settings"]["seeds"] == 3
    assert row["set"] == "trec"
    assert row["least"] >= 60
    assert metrics["near_duplicates"][0]["copies of 30 words found, %"] > 99


def test_out_of_scope(shared_data: Path) -> None:
    """All scores are measured; each use of the examples has the three thresholds, which keep what they should."""
    metrics = run("out_of_scope", "--quick")
    rows = {row["score"]: row for row in metrics["scores"]}
    assert len(rows) == 5
    assert rows["maximum softmax probability"]["risk-coverage area, test"] == min(
        row["risk-coverage area, test"] for row in rows.values()
    )
    assert [row["examples"] for row in metrics["uses"]] == ["thresholds only"] * 3 + ["also a class"] * 3
    assert all(93 < row["kept"] < 97 for row in metrics["uses"] if row["objective"] == "retention")


def test_labelling(shared_data: Path) -> None:
    """Each side is trained on the same first rows, and on 100 more after each round."""
    rows = run("labelling", "--quick")["sides"]
    assert [row["side"] for row in rows] == ["random", "least margin", "predict --uncertain"]
    assert len({row["200 rows"] for row in rows}) == 1
    assert all(0 < row["400 rows"] < 100 for row in rows)


def test_learning_curves(shared_data: Path, tmp_path: Path) -> None:
    """Each side is trained on each number of rows, and the picture is written."""
    rows = run("learning_curves", "--quick", "--picture", str(tmp_path / "curves.png"))["trec"]
    assert [row["trained on"] for row in rows] == ["rand", "static", "non-static", "TF-IDF, linear SVC"]
    assert all(0 < row[column] < 100 for row in rows for column in ("100 rows", "300 rows"))
    assert rows[-1]["300 rows"] > rows[-1]["100 rows"]  # two epochs are few for the networks
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_verdict() -> None:
    """Without a difference searches rarely say that fine-tuning pays; a large one is found."""
    metrics = run("verdict", "--quick")
    assert all(row["pays"] <= 5 for row in metrics["no difference"])
    assert [row["true gain, points"] for row in metrics["fine-tuning is better"]] == [1, 5]
    assert metrics["fine-tuning is better"][1]["pays"] > 95
    assert metrics["fine-tuning is better"][0]["pays"] > metrics["fine-tuning is better"][0]["pays, unpaired"]


def test_serving(ray_environment: dict[str, str]) -> None:
    """The service and the no-op deployment respond to all requests, also while the checkpoint changes."""
    if not shutil.which("wrk"):
        pytest.skip("no wrk here: apt-get install wrk")
    metrics = run("serving", "--quick", "--only", "speed", "swap", RAY_TMPDIR=ray_environment["RAY_TMPDIR"])
    rows = {(row["connections"], row["request"]) for row in metrics["speed"]}
    assert rows == {(count, name) for count in (1, 16, 64) for name in serving.REQUESTS}
    assert all(row["classifier rate"] > 0 and row["no-op rate"] > 0 for row in metrics["speed"])
    [row] = metrics["swap"]
    assert row["failed"] == 0
    assert row["same processes"]


def test_tuning() -> None:
    """A search, its comparison with Ray Tune's own features and with nested trainers, and the memory of trials."""
    metrics = run("tuning", "--quick")
    [search] = metrics["overhead"]
    assert 0 < search["share of the cores' time in training"] < 1
    assert [row["side"] for row in metrics["sides"]] == ["this project", "Ray Tune", "Ray Tune, state every 10 s"]
    assert all(row["cores' time a trial, s"] > 0 for row in metrics["sides"])
    ours, nested = metrics["nested"]
    assert ours["times"] == pytest.approx(ours["trials an hour"] / nested["trials an hour"])
    assert all(row["private memory of a trial, MB"] > 0 for row in metrics["memory"])


def test_large_checkpoints_of_a_search() -> None:
    """This project, whose checkpoints share files, takes less space than Ray Tune with one of every epoch."""
    rows = {row["side"]: row for row in run("tuning", "--quick", "--only", "checkpoints")["checkpoints"]}
    assert rows["this project"]["MB"] < rows["Ray Tune, every epoch"]["MB"]


def test_kills_of_the_driver_of_a_search() -> None:
    """This project repeats no finished trial, and names a complete best checkpoint at any time."""
    rows = run("tuning", "--quick", "--only", "kills")["kills"]
    assert [row["side"] for row in rows] == ["this project", "Ray Tune"] * 2
    after_a_trial, without_best = rows[0], rows[2]
    for row in (after_a_trial, without_best):
        found_always = row["without"] == row["without, running"] == 0
        assert (row["resumed"], row["repeated"], found_always) == (True, 0, True), json.dumps(row, indent=1)
        assert row["reads while running"] > 0
    assert (after_a_trial["kills"], after_a_trial["reads after a kill"], without_best["kills"]) == (1, 1, 0)
