"""The classifier as a deployment that other deployments of an application call, without Ray."""

import asyncio
import json
import pickle
from pathlib import Path

import pytest

from serving.api_keys import KEYS_VARIABLE
from serving.app import ApplicationArguments, build
from tests.support.asgi import make_replica, send_request


def test_other_deployments_receive_what_clients_receive(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an API key. An invalid request is an error that Serve can send to the caller."""
    body = json.dumps({"inputs": ["word1 word2", ""], "parameters": {"top_k": 2}}).encode()
    _, _, expected = send_request(make_replica({"checkpoint": str(run_folder)}), "/predict", body)
    monkeypatch.setenv(KEYS_VARIABLE, "0123456789abcdef0123456789abcdef")
    replica = make_replica({"checkpoint": str(run_folder)}, limits={"max_texts": 2})
    replica.__serve_build_asgi_app__()
    assert asyncio.run(replica.classify(["word1 word2", ""], top_k=2)) == expected
    for texts, message in ((["a"] * 3, "at most 2"), ([], "inputs")):
        with pytest.raises(ValueError, match=message) as raised:
            asyncio.run(replica.classify(texts))
        assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_the_arguments_may_name_the_checkpoint() -> None:
    """So an application in Python needs no `user_config`. Replicas have another working directory."""
    config = build(ApplicationArguments(checkpoint="model"))._bound_deployment.user_config
    assert config == {"checkpoint": str(Path("model").absolute())}
    assert build(ApplicationArguments())._bound_deployment.user_config is None
