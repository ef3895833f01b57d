"""A service of a Python program: it ends with the program, which need not stop it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3

import finetune_cnn
from cluster.machine import find_free_ports
from cluster.package import REPOSITORY
from jobs.inference.classifier import Classifier
from jobs.model.checkpoint import save_checkpoint
from serving.deployment.server import RunningService
from tests.serving.mounted_replica import MountedReplica
from tests.support.asgi import make_replica, serve_replica, start_without_ray
from tests.support.checkpoints import checkpoint_of

PROGRAM = """
import atexit, sys
from pathlib import Path

import ray

import finetune_cnn
from jobs.model.checkpoint import save_checkpoint
from serving.deployment.local_service import Service
from tests.support.checkpoints import checkpoint_of


class Model:
    def save(self, path):
        save_checkpoint(Path(path), checkpoint_of("rand"))


# Called after the service is stopped, which ends the Ray that it started, and before Ray's own function.
atexit.register(lambda: print("at exit:", ray.is_initialized(), flush=True))
service = finetune_cnn.deploy(Model(), port=int(sys.argv[1]), models={"other": sys.argv[2]})
second = finetune_cnn.deploy(Model(), name="second", route_prefix="/second", port=int(sys.argv[1]))
print("second:", second.url, second.predict(["word1"]) == service.predict(["word1"]))
print("labels:", service.predict(["word1"]), service.predict(["word1"], model="other"))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_end_of_the_program_stops_its_service(
    run_folder: Path, ray_environment: dict[str, str], tmp_path: Path
) -> None:
    """Before Ray ends, and without an error; neither its temporary model nor a lease stays."""
    before = sorted(run_folder.rglob("*"))
    environment = ray_environment | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    arguments = [str(find_free_ports(1)[0]), str(run_folder / "first")]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    second, labels, end = result.stdout.splitlines()[-3:]
    assert second == f"second: http://127.0.0.1:{arguments[0]}/second True"
    assert labels.startswith("labels: ['")
    assert end == "at exit: False", result.stdout
    assert "Traceback" not in result.stderr, result.stderr
    assert "Warning" not in result.stderr, result.stderr
    # The tables are shared by the processes of a machine, and stay.
    assert [name for name in os.listdir(tmp_path) if not name.startswith("finetune-cnn-tables-")] == []
    assert sorted(run_folder.rglob("*")) == before


def test_labels_are_those_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one label per text, the best; with several, a list of those above their thresholds, which may be empty."""
    monkeypatch.setattr("serving.deployment.local_service.start_service", start_without_ray)
    texts = [f"word{number} word{number + 1}" for number in range(40)]
    single, several = checkpoint_of("rand"), checkpoint_of("rand", **{"data.multi_label": True})
    probabilities = Classifier(several).predict_proba(texts)
    several.metrics["label_thresholds"] = {"values": np.median(probabilities, axis=0).tolist()}
    save_checkpoint(tmp_path / "single", single)
    save_checkpoint(tmp_path / "several", several)
    expected = finetune_cnn.load(str(tmp_path / "several")).predict(texts)
    assert {len(labels) for labels in expected} >= {0, 1, 2}
    with finetune_cnn.deploy(str(tmp_path / "several"), models={"single": str(tmp_path / "single")}) as service:
        assert service.predict(texts) == expected
        assert service.predict(texts, model="single") == Classifier(single).predict(texts)
        for model in (None, "single"):
            with pytest.raises(ValueError, match="got a single one: 'word1 word2'; put it in a list"):
                service.predict("word1 word2", model=model)


def test_pages_of_allowed_origins_may_read_responses(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preflight request of another origin is refused."""
    monkeypatch.setattr("serving.deployment.local_service.start_service", start_without_ray)
    origins = ["https://example.com", "http://localhost:3000"]
    with finetune_cnn.deploy(str(run_folder), allowed_origins=origins) as service:
        for origin, status in ((origins[0], 200), (origins[1], 200), ("https://other.org", 400)):
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            response = urllib3.request("OPTIONS", f"{service.url}/predict", headers=headers, timeout=30)
            assert response.status == status
            assert response.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
    with pytest.raises(finetune_cnn.UsageError, match=r"'example\.com' is no origin, such as"):
        finetune_cnn.deploy(str(run_folder), allowed_origins=["example.com"])
    with pytest.raises(finetune_cnn.UsageError, match="a list of origins is required"):
        finetune_cnn.deploy(str(run_folder), allowed_origins="https://example.com")


def test_a_wrong_name_of_a_model_is_an_error_before_ray_starts(run_folder: Path) -> None:
    with pytest.raises(finetune_cnn.UsageError, match=r"user_config: models\.a/b"):
        finetune_cnn.deploy(str(run_folder), models={"a/b": str(run_folder)})


def test_services_of_one_program_have_route_prefixes(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends its requests there."""

    @contextmanager
    def start_under_prefix(configuration: dict[str, Any], address: None) -> Iterator[RunningService]:
        application = configuration["applications"][0]
        replica = make_replica(application["deployments"][0]["user_config"], **application["args"])
        prefix = application["route_prefix"].rstrip("/")
        with serve_replica(MountedReplica(replica, prefix)) as url:
            yield RunningService(url + prefix, embedded=False)

    monkeypatch.setattr("serving.deployment.local_service.start_service", start_under_prefix)
    first, second = str(run_folder / "first"), str(run_folder / "second")
    with (
        finetune_cnn.deploy(first) as default,
        finetune_cnn.deploy(second, name="tickets", route_prefix="/api/tickets") as tickets,
    ):
        assert tickets.url.endswith("/api/tickets")
        assert default.client.info()["checkpoint"] == first
        assert tickets.client.info()["checkpoint"] == second
        assert tickets.predict(["word1"]) == finetune_cnn.load(second).predict(["word1"])
    for prefix in ("", "tickets", "/tickets/", "//", "/a b", "/{name}"):
        with pytest.raises(finetune_cnn.UsageError, match=r"route_prefix: .* is not '/', or a path such as '/tickets'"):
            finetune_cnn.deploy(first, route_prefix=prefix)
