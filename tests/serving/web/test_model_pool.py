"""Further models of a service: opened on demand, closed for others, or refused; through the application."""

import asyncio
import json
import shutil
import threading
from itertools import pairwise, product
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient

from cluster import UsageError
from jobs.model.checkpoint import save_checkpoint
from serving.app import Replica
from serving.web import model_pool
from serving.web.metrics import ModelCounters
from serving.web.model_pool import ModelPool
from serving.web.protocol import Limits, RequestError
from serving.web.served_models import MAX_MODELS, ServedModel, UserConfigError, load_model, parse_user_config
from tests.support.asgi import configure, make_replica, send_request, serve_replica
from tests.support.checkpoints import checkpoint_of

BODY = b'{"inputs": "word1 word2"}'
MODELS = ("x", "y", "z.1")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of checkpoints by name, different from each other, and of the main one."""
    folder = tmp_path_factory.mktemp("models")
    for number, name in enumerate((*MODELS, "main")):
        checkpoint = checkpoint_of("rand")
        checkpoint.weights["output.bias"][:] = [number, 0, 0]
        save_checkpoint(folder / name, checkpoint)
    return {name: str(folder / name) for name in (*MODELS, "main")}


@pytest.fixture(scope="module")
def size(paths: dict[str, str]) -> int:
    """Memory of each of the models."""
    return load(paths["x"]).memory_bytes


def load(path: str) -> ServedModel:
    return load_model(path, (), 1 << 28, "int16", Limits())


def make_pool_replica(paths: dict[str, str], models: dict[str, str] | None = None, **arguments: object) -> Replica:
    models = {name: paths[name] for name in MODELS} if models is None else models
    return make_replica({"checkpoint": paths["main"], "models": models}, **arguments)


def list_states(replica: Replica) -> dict[str, str]:
    status, _, listing = send_request(replica, "/models")
    assert status == 200
    assert listing["bytes"] == sum(model["bytes"] for model in listing["models"])
    return {model["name"]: model["state"] for model in listing["models"]}


def test_each_model_responds_at_its_own_path(paths: dict[str, str]) -> None:
    """As a service of its checkpoint would; `/predict` is that of the main checkpoint."""
    replica = make_pool_replica(paths)
    assert list_states(replica) == dict.fromkeys(MODELS, "closed")
    names = set()
    for name in MODELS:
        own = make_replica({"checkpoint": paths[name]})
        for path in ("predict", "predict/"):
            status, headers, labels = send_request(replica, f"/models/{name}/{path}", BODY)
            own_status, own_headers, own_labels = send_request(own, "/predict", BODY)
            assert (status, labels) == (own_status, own_labels)
            assert headers == own_headers
        names.add(headers["x-checkpoint"])
        assert send_request(replica, f"/models/{name}/info")[2] == send_request(own, "/info")[2]
        assert asyncio.run(replica.classify(["word1 word2"], model=name)) == [labels]
    assert len(names) == len(MODELS)
    assert list_states(replica) == dict.fromkeys(MODELS, "open")
    assert send_request(replica, "/predict", BODY)[1]["x-checkpoint"] not in names


def test_clients_of_hugging_face_use_the_path_of_a_model(paths: dict[str, str]) -> None:
    """They send to the URL that they have, and read the first list of the response; as `POST /` of the main model."""
    replica = make_pool_replica(paths)
    labels = send_request(replica, "/models/y/predict", BODY)[2]
    for path in ("/models/y", "/models/y/"):
        assert send_request(replica, path, BODY)[2] == [labels]
    with serve_replica(replica) as url:
        rows = InferenceClient(model=f"{url}/models/y").text_classification("word1 word2", top_k=2)
    assert [(row.label, row.score) for row in rows] == [(row["label"], row["score"]) for row in labels[:2]]


def test_an_unknown_model_or_path_is_an_error_that_lists_what_exists(paths: dict[str, str]) -> None:
    replica = make_pool_replica(paths)
    for path, body, status, reason in (
        ("/models/other/predict", BODY, 404, "no such model: other; the models are x, y, z.1"),
        ("/models/other/info", None, 404, "no such model: other; the models are x, y, z.1"),
        ("/models/x/unknown", BODY, 404, "no such path: /models/x/unknown; the paths are /, /predict"),
        ("/models/x/y/z", None, 404, "/models/NAME, /models/NAME/predict, /models/NAME/info"),
        ("/models/x", None, 405, "/models/x accepts POST"),
        ("/models/other", BODY, 404, "no such model: other"),
        ("/models//predict", BODY, 404, "no such path"),
        ("/models/x/predict", None, 405, "/models/x/predict accepts POST"),
        ("/models/x/info", BODY, 405, "accepts GET and HEAD"),
        ("/models", BODY, 405, "accepts GET and HEAD"),
        ("/models/x/predict", b"{", 400, "not valid JSON"),
    ):
        actual, headers, response = send_request(replica, path, body)
        assert actual == status, path
        assert reason in response["error"]
        assert ("x-checkpoint" in headers) == (
            path in ("/models", "/models/x/y/z", "/models/x/unknown", "/models//predict")
        )
    assert "has no further models" in send_request(make_pool_replica(paths, {}), "/models/x/info")[2]["error"]


def test_the_model_used_least_recently_is_closed_and_opened_again(paths: dict[str, str], size: int) -> None:
    """Two of three models fit into the memory."""
    replica = make_pool_replica(paths, models_bytes=2 * size)
    for used, is_open in (("x", "x"), ("y", "xy"), ("x", "xy"), ("z.1", "xz"), ("y", "yz"), ("z.1", "yz")):
        assert send_request(replica, f"/models/{used}/predict", BODY)[0] == 200
        states = list_states(replica)
        assert [name for name in MODELS if states[name] == "open"] == [name for name in MODELS if name[0] in is_open]
    counts, state = replica.pool.take_counts()
    assert state is not None
    assert (state.open_models, state.opened, state.refused, state.bytes_used) == (2, 4, 0, 2 * size)
    # Also texts of models that are closed are counted, once.
    texts: dict[str, int] = {}
    for count in counts:
        texts[count.role] = texts.get(count.role, 0) + sum(count.counters.label_counts)
    assert texts == {"models/x": 2, "models/y": 2, "models/z.1": 2}
    assert sum(sum(count.counters.label_counts) for count in replica.pool.take_counts()[0]) == 0


def test_a_model_that_needs_more_than_the_limit_is_refused(paths: dict[str, str], size: int) -> None:
    """The other models stay open."""
    for limit, state in ((size, "open"), (size - 1, "refused")):
        replica = make_pool_replica(paths, models_bytes=limit)
        status, headers, response = send_request(replica, "/models/x/predict", BODY)
        assert (status, list_states(replica)["x"]) == (200 if state == "open" else 503, state)
    assert f"needs {size:,} bytes; models_bytes is {size - 1:,}" in response["error"]
    assert headers["retry-after"] == "10"


def test_a_damaged_model_is_refused_until_it_is_repaired(
    paths: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests get a 503 with the reason; all others are answered. It is not read again for each request."""
    late = tmp_path / "late"
    replica = make_pool_replica(paths, {"x": paths["x"], "late": str(late)})
    status, _, response = send_request(replica, "/models/late/predict", BODY)
    assert (status, "neither a checkpoint nor a best.json" in response["error"]) == (503, True)
    assert list_states(replica) == {"x": "closed", "late": "refused"}
    assert "neither" in send_request(replica, "/models")[2]["models"][1]["refused"]
    for path in ("/models/x/predict", "/predict"):
        assert send_request(replica, path, BODY)[0] == 200
    shutil.copytree(paths["y"], late)
    assert send_request(replica, "/models/late/predict", BODY)[0] == 503
    monkeypatch.setattr(model_pool, "RETRY_S", 0)
    assert send_request(replica, "/models/late/predict", BODY)[0] == 200
    assert list_states(replica) == {"x": "open", "late": "open"}


def test_another_checkpoint_replaces_an_open_model(paths: dict[str, str], tmp_path: Path) -> None:
    """The open one responds if the other one is refused; a model that is no longer named is closed."""
    replica = make_pool_replica(paths)
    for name in MODELS:
        send_request(replica, f"/models/{name}/predict", BODY)
    expected = send_request(replica, "/models/y/predict", BODY)[2]
    configure(replica, {"checkpoint": paths["main"], "models": {"x": paths["y"], "y": str(tmp_path)}})
    assert send_request(replica, "/models/x/predict", BODY)[2] == expected
    assert send_request(replica, "/models/y/predict", BODY)[2] == expected
    assert list_states(replica) == {"x": "open", "y": "open"}
    models = send_request(replica, "/models")[2]["models"]
    assert [model["checkpoint"] for model in models] == [paths["y"], paths["y"]]
    assert "neither a checkpoint" in models[1]["refused"]
    assert send_request(replica, "/models/z.1/predict", BODY)[0] == 404


def test_a_refused_replacement_is_tried_again(
    paths: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By requests, which the open model answers meanwhile, but not before RETRY_S, and by the next configuration."""
    late = str(tmp_path / "late")
    loads: list[str] = []

    def load_recorded(path: str) -> ServedModel:
        loads.append(path)
        return load(path)

    async def replace(pool: ModelPool) -> None:
        await pool.configure({"x": paths["x"]})
        await pool.get("x")
        await pool.configure({"x": late})
        for _ in range(3):
            assert (await pool.get("x")).user_config.checkpoint == paths["x"]
            await asyncio.sleep(0)
        assert loads == [paths["x"], late]

    async def run() -> None:
        pool, configured = (ModelPool(load_recorded, 1 << 30) for _ in range(2))
        await replace(pool)
        loads.clear()
        await replace(configured)
        shutil.copytree(paths["y"], late)
        await configured.configure({"x": late})
        assert configured.describe()["models"][0]["checkpoint"] == late
        monkeypatch.setattr(model_pool, "RETRY_S", 0)
        assert (await pool.get("x")).user_config.checkpoint == paths["x"]
        while (await pool.get("x")).user_config.checkpoint != late:
            await asyncio.sleep(0.01)
        assert loads == [paths["x"], late, late, late]
        assert [pool.describe()["models"][0][key] for key in ("state", "refused")] == ["open", None]

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_refused_model_is_tried_again_after_growing_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a limit; the response says when, and a new configuration is tried at once."""
    now_s, tries = [1000.0], []
    monkeypatch.setattr(model_pool, "monotonic", lambda: now_s[0])

    def refuse(path: str) -> ServedModel:
        tries.append(now_s[0])
        raise UsageError(f"{path}: is no checkpoint")

    async def request(pool: ModelPool, seconds: int) -> int:
        """Request the model each second; return the Retry-After of the last response."""
        for _ in range(seconds):
            with pytest.raises(RequestError) as refusal:
                await pool.get("x")
            now_s[0] += 1
        return int(dict(refusal.value.headers)[b"retry-after"])

    async def run() -> None:
        pool = ModelPool(refuse, 1 << 30)
        await pool.configure({"x": "late"})
        assert await request(pool, 10) == 1
        assert await request(pool, 1) == 20
        await request(pool, 1000)
        assert [later - earlier for earlier, later in pairwise(tries)] == [10, 20, 40, 80, 160, 300, 300]
        await pool.configure({"x": "late"}, again=True)
        await request(pool, 1)
        assert len(tries) == 8
        await pool.configure({"x": "late"})
        assert await request(pool, 1) == 10
        assert len(tries) == 9

    asyncio.run(run())


def test_a_cancelled_request_does_not_stop_a_model_from_being_opened(paths: dict[str, str]) -> None:
    """Another request for it waits for the same one; no second model is opened meanwhile."""
    loads: list[str] = []
    started, may_end = threading.Event(), threading.Event()

    def load_slowly(path: str) -> ServedModel:
        loads.append(path)
        started.set()
        assert may_end.wait(60)
        return load(path)

    async def run() -> None:
        pool = ModelPool(load_slowly, 1 << 30)
        await pool.configure({"x": paths["x"], "y": paths["y"]})
        request = asyncio.create_task(pool.get("x"))
        assert await asyncio.to_thread(started.wait, 60)
        for waiting in (request, pool.get("x"), pool.get("y")):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, 0.01)
        assert loads == [paths["x"]]
        may_end.set()
        for name in "xy":
            await pool.get(name)
        assert loads == [paths["x"], paths["y"]]

    try:
        asyncio.run(asyncio.wait_for(run(), 60))
    finally:
        may_end.set()


def test_a_replica_without_its_checkpoint_has_the_further_models(paths: dict[str, str], tmp_path: Path) -> None:
    replica = make_replica({"checkpoint": str(tmp_path), "previous": paths["main"], "models": {"x": paths["x"]}})
    assert send_request(replica, "/info")[2]["checkpoint"] == paths["main"]
    assert send_request(replica, "/models/x/predict", BODY)[0] == 200


def test_a_model_is_opened_once_for_requests_that_wait(paths: dict[str, str]) -> None:
    """And no two models at the same time."""
    loads: list[str] = []
    running = 0

    def load_counted(path: str) -> ServedModel:
        nonlocal running
        running += 1
        assert running == 1
        loads.append(path)
        model = load(path)
        running -= 1
        return model

    async def run() -> None:
        pool = ModelPool(load_counted, 1 << 30)
        await pool.configure({"x": paths["x"], "y": paths["y"]})
        models = await asyncio.gather(*(pool.get(name) for name in "xyxyx"))
        assert models[0] is models[2] is models[4] is not models[1]
        assert sorted(loads) == [paths["x"], paths["y"]]

    asyncio.run(asyncio.wait_for(run(), 60))


def test_names_and_their_number_are_limited(paths: dict[str, str]) -> None:
    for models, message in (
        ({"a b": "path"}, "match pattern"), ({"..": "path"}, "match pattern"), ({"a/b": "path"}, "match pattern"),
        ({f"m{number}": "path" for number in range(MAX_MODELS + 1)}, f"at most {MAX_MODELS}"),
    ):  # fmt: skip
        with pytest.raises(UserConfigError, match=message):
            parse_user_config({"checkpoint": paths["main"], "models": models})
    with pytest.raises(UsageError):
        make_pool_replica(paths, {"a b": paths["x"]})


def test_the_description_names_the_models(paths: dict[str, str]) -> None:
    """Also after a change of the configuration."""
    replica = make_pool_replica(paths)
    replica.__serve_build_asgi_app__()
    for path, names in product(("/models/{name}", "/models/{name}/predict"), (list(MODELS), ["y"], [])):
        configure(replica, {"checkpoint": paths["main"], "models": {name: paths[name] for name in names}})
        described = send_request(replica, "/openapi.json")[2]["paths"]
        operation = described.get(path, {}).get("post")
        assert (operation["parameters"][0]["schema"]["enum"] if operation else []) == names
        assert "/models" in described


def test_the_memory_of_a_model_is_that_of_its_arrays(paths: dict[str, str]) -> None:
    """And grows with the vocabulary and the number of classes."""
    model = load(paths["x"])
    assert model.memory_bytes > model.classifier.table_bytes + 200 * 100
    assert json.loads(json.dumps(model.take_counters().label_counts)) == ModelCounters(3).label_counts
