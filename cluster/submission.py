"""A verb run as a Ray job: the code is sent, the log followed, the exit code passed on."""

import asyncio
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster import UsageError
from cluster.package import REPOSITORY, inside, pack

INTERRUPTED = 130


class SubmissionFailed(UsageError):
    """A job could not be submitted, or its end could not be seen."""


def dashboard(address: str | None = None) -> str:
    """Return the address of the cluster's dashboard, which takes jobs and services.

    It is the one given, else `RAY_DASHBOARD_ADDRESS`, else `RAY_ADDRESS` where that is a URL.

    Raises:
        SubmissionFailed: none of them is set.
    """
    for found in (address, os.environ.get("RAY_DASHBOARD_ADDRESS"), os.environ.get("RAY_ADDRESS")):
        if found and found.startswith(("http://", "https://")):
            return found
    if address:
        raise SubmissionFailed(f"'{address}' is no dashboard address; write http://HOST:8265")
    raise SubmissionFailed("which cluster? Give --address http://HOST:8265, or set RAY_DASHBOARD_ADDRESS")


def submit(
    arguments: Sequence[str],
    *,
    address: str | None = None,
    module: str = "jobs",
    folder: Path = REPOSITORY,
    include: Sequence[str] = (),
    detach: bool = False,
    say: Callable[[str], None] = print,
) -> int:
    """Submit `python -m <module> <arguments>`, follow its log, and return its exit code.

    Ctrl-C stops following, not the job. With `detach` the return is 0 once the job is submitted.

    Args:
        folder: what is sent, as far as it is source; `include` names further files in it, such as a small csv.

    Raises:
        SubmissionFailed: the cluster cannot be reached, or refuses.
        PackageError: an experiment file lies outside the folder.
    """
    url = dashboard(address)
    client = _client(url)
    package = pack(folder, also=[*include, *(word for word in arguments if _is_experiment(word))])
    try:
        say(package.describe())
        # There a file is where it lies in the folder, wherever the folder is here.
        words = [inside(folder, word) if _is_experiment(word) else word for word in arguments]
        job = _submitted(client, shlex.join(["python", "-m", module, *words]), package.path)
    finally:
        shutil.rmtree(package.path.parent, ignore_errors=True)
    say(f"submitted {job}; its log: ray job logs {job} --address {url}")
    if detach:
        return 0
    try:
        asyncio.run(_follow(client, job, say))
        return _exit_code(client, job, say)
    except KeyboardInterrupt:
        say(f"\n{job} goes on; this stops it: ray job stop {job} --address {url}")
        return INTERRUPTED
    except (RuntimeError, ConnectionError) as error:
        raise SubmissionFailed(f"lost sight of {job}: {_one_line(error)}; ray job status {job} tells more") from error


def _is_experiment(word: str) -> bool:
    return "=" not in word and word.endswith((".yaml", ".yml"))


def _client(url: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    # The client would log each upload and each closed socket; what is uploaded is said before.
    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(url)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SubmissionFailed(f"cannot reach the cluster at {url}: {_explained(error)}") from error


def _submitted(client: Any, entrypoint: str, package: Path) -> str:
    try:
        return client.submit_job(
            entrypoint=entrypoint,
            # A log that is followed should not lag behind by a buffer.
            runtime_env={"working_dir": str(package), "env_vars": {"PYTHONUNBUFFERED": "1"}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SubmissionFailed(f"the cluster does not take the job: {_explained(error)}") from error


async def _follow(client: Any, job: str, say: Callable[[str], None]) -> None:
    async for lines in client.tail_job_logs(job):
        say(lines.rstrip("\n"))


def _exit_code(client: Any, job: str, say: Callable[[str], None]) -> int:
    from ray.job_submission import JobStatus

    details = client.get_job_info(job)
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        say(f"{job} was stopped")
        return INTERRUPTED
    if details.driver_exit_code:  # what it said is in the log above
        say(f"{job} failed with exit code {details.driver_exit_code}")
        return details.driver_exit_code
    say(f"{job} failed: {_one_line(details.message or 'no reason given')}")
    return 1


def _explained(error: Exception) -> str:
    text = _one_line(error)
    if "401" in text or "403" in text or "token" in text.lower():
        return f"{text} (is RAY_AUTH_MODE=token exported, and the cluster's token in ~/.ray/auth_token?)"
    return text


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:500]
