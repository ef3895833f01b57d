"""A verb run as a Ray job: the code is sent, the log followed, the exit code passed on."""

import asyncio
import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster import UsageError
from cluster import auth as token
from cluster.package import REPOSITORY, build_package, relative_path

logger = logging.getLogger(__name__)

EXIT_INTERRUPTED = 130
MAX_POLL_INTERVAL_S = 2  # between looks at a job that is asked to stop
STOP_TIMEOUT_S = 60
INSTALL_TIMEOUT_S = 1800


class SubmissionError(UsageError):
    """A job could not be submitted, or its end could not be seen."""


def resolve_dashboard_url(address: str | None = None) -> str:
    """Return the address of the cluster's dashboard, which takes jobs and services.

    It is the one given, else `RAY_DASHBOARD_ADDRESS`, else `RAY_ADDRESS` where that is a URL.

    Raises:
        SubmissionFailed: none of them is set.
    """
    for found in (address, os.environ.get("RAY_DASHBOARD_ADDRESS"), os.environ.get("RAY_ADDRESS")):
        if found and found.startswith(("http://", "https://")):
            return found
    if address:
        raise SubmissionError(f"'{address}' is no dashboard address; write http://HOST:8265")
    raise SubmissionError("which cluster? Give --address http://HOST:8265, or set RAY_DASHBOARD_ADDRESS")


def submit_job(
    arguments: Sequence[str],
    *,
    address: str | None = None,
    module: str = "jobs",
    working_dir: Path = REPOSITORY,
    include: Sequence[str] = (),
    install: bool = False,
    detach: bool = False,
    confirm: Callable[[str], bool] = lambda question: False,
) -> int:
    """Submit `python -m <module> <arguments>`, follow its log, and return its exit code.

    With `detach` the return is 0 once the job is submitted.

    Args:
        folder: what is sent, as far as it is source; `include` names further files in it, such as a small csv.
        install: let each node install the packages of the folder's requirements.lock first, for this job alone.
        ask: is asked on Ctrl-C whether the job should stop too.

    Raises:
        SubmissionFailed: the cluster cannot be reached, or refuses.
        PackageError: an experiment file lies outside the folder.
    """
    url = resolve_dashboard_url(address)
    client = create_client(url)
    package = build_package(working_dir, include=[*include, *(word for word in arguments if _is_experiment(word))])
    try:
        logger.info(package.describe())
        # There a file is where it lies in the folder, wherever the folder is here.
        words = [relative_path(working_dir, word) if _is_experiment(word) else word for word in arguments]
        environment = build_runtime_env(package.path, read_requirements(working_dir) if install else [])
        job = _submitted(client, shlex.join(["python", "-m", module, *words]), environment)
    finally:
        shutil.rmtree(package.path.parent, ignore_errors=True)
    at = f"--address {url}"
    logger.info(f"submitted {job}; come back to it: python -m cluster logs {job} --follow {at}")
    return 0 if detach else follow_log(client, job, confirm, at)


def follow_log(client: Any, job: str, confirm: Callable[[str], bool], address_option: str) -> int:
    """Say a job's log until it ends, and return its exit code; Ctrl-C asks whether the job should stop.

    Args:
        at: the option that names the cluster, for what is said.

    Raises:
        SubmissionFailed: the job is lost sight of.
    """
    try:
        asyncio.run(_follow(client, job))
        return _exit_code(client, job, address_option)
    except KeyboardInterrupt:
        if confirm(f"\nstop {job} too?"):
            stop_job(client, job)
        else:
            logger.info(f"{job} goes on; this stops it: python -m cluster stop {job} {address_option}")
        return EXIT_INTERRUPTED
    except (RuntimeError, ConnectionError, OSError) as error:
        raise SubmissionError(
            f"lost sight of {job}: {to_single_line(error)}; python -m cluster status {job} {address_option} tells more"
        ) from error


def stop_job(client: Any, job: str) -> None:
    """Ask a job to stop, and wait until it has."""
    from ray.job_submission import JobStatus

    if client.get_job_status(job).is_terminal():
        logger.info(f"{job} has ended already: {client.get_job_status(job)}")
        return
    client.stop_job(job)
    logger.info(f"stopping {job}")
    deadline = time.monotonic() + STOP_TIMEOUT_S
    pause = 0.1
    while not (status := client.get_job_status(job)).is_terminal():
        if time.monotonic() > deadline:
            raise SubmissionError(f"{job} has not stopped after {STOP_TIMEOUT_S} s")
        time.sleep(pause)
        pause = min(2 * pause, MAX_POLL_INTERVAL_S)
    logger.info(f"{job} was stopped" if status == JobStatus.STOPPED else f"{job} had ended: {status}")


def read_requirements(folder: Path) -> list[str]:
    """Return the pins of a folder's requirements.lock; SubmissionFailed if it has none."""
    path = folder / "requirements.lock"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SubmissionError(f"{path}: --install needs this file: {error.strerror}") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def build_runtime_env(package: Path, pins: list[str]) -> dict[str, Any]:
    """Return Ray's runtime environment of a job: the code, and packages to install first."""
    environment: dict[str, Any] = {
        "working_dir": str(package),
        "env_vars": {"PYTHONUNBUFFERED": "1"},  # a log that is followed should not lag behind by a buffer
    }
    if pins:
        environment |= {"pip": pins, "config": {"setup_timeout_seconds": INSTALL_TIMEOUT_S}}
    return environment


def _is_experiment(word: str) -> bool:
    return "=" not in word and word.endswith((".yaml", ".yml"))


def create_client(url: str, kind: str = "job") -> Any:
    """Return Ray's client for jobs, or for services with `serve`.

    Raises:
        SubmissionFailed: the cluster cannot be reached, or refuses.
        TokenRefused: it wants another token.
    """
    known = token.enable_token_auth()
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # The client would log each upload and each closed socket; what is uploaded is said before.
    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    try:
        return {"job": JobSubmissionClient, "serve": ServeSubmissionClient}[kind](url)
    except AuthenticationError as error:
        raise token.TokenError(f"the cluster at {url} {token.describe_rejection(known)}") from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SubmissionError(f"cannot reach the cluster at {url}: {to_single_line(error)}") from error


def _submitted(client: Any, entrypoint: str, environment: dict[str, Any]) -> str:
    try:
        return client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SubmissionError(f"the cluster does not take the job: {to_single_line(error)}") from error


async def _follow(client: Any, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        logger.info(lines.rstrip("\n"))


def _exit_code(client: Any, job: str, at: str) -> int:
    from ray.job_submission import JobStatus

    details = client.get_job_info(job)
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        logger.info(f"{job} was stopped")
        return EXIT_INTERRUPTED
    log = f"its log: python -m cluster logs {job} {at}"
    if details.driver_exit_code:  # what it said is in the log above
        logger.info(f"{job} failed with exit code {details.driver_exit_code}; {log}")
        return details.driver_exit_code
    logger.info(f"{job} failed: {to_single_line(details.message or 'no reason given')}; {log}")
    return 1


def to_single_line(error: object) -> str:
    """Return what an error says on one line, cut off after 500 letters."""
    return " ".join(str(error).split())[:500]
