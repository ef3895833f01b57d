"""The sample output of `finetune-cnn check` in the guide about clusters."""

import dataclasses

from cluster.check import NodeReport, evaluate_node
from cluster.machine import GpuState
from cluster.package import REPOSITORY

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0"}
HEAD = NodeReport(host="head", versions=VERSIONS, free_bytes=70 << 30, gpus=0, clock=1000.0, token_file_mode=0o600)


def test_the_sample_lines_of_the_guide_are_those_of_the_check() -> None:
    other = dataclasses.replace(HEAD, versions=VERSIONS | {"torch": "2.12.0"})
    state = GpuState(1, "570.133.20", "2.13.0", "13.0", "The NVIDIA driver on your system is too old")
    two = dataclasses.replace(HEAD, gpus=1, gpu_problem=state.problem)
    findings = [
        *evaluate_node("head (10.0.0.1)", HEAD, 0, VERSIONS, "s3://bucket/runs"),
        *evaluate_node("one (10.0.0.2)", other, 0, VERSIONS, "s3://bucket/runs"),
        *evaluate_node("two (10.0.0.3)", two, 1, VERSIONS, "s3://bucket/runs"),
    ]
    guide = (REPOSITORY / "docs" / "guides" / "cluster.md").read_text(encoding="utf-8").splitlines()
    assert [finding for finding in map(str, findings) if finding not in guide] == []
