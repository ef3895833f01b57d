"""Ray jobs: submission of a command with its code, the log, the exit code, and the list of jobs."""

import asyncio
import getpass
import logging
import os
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster import UsageError, auth, to_single_line
from cluster.connection import parse_address
from cluster.console.cli import EXIT_INTERRUPTED
from cluster.console.logs import RESULT
from cluster.console.output import report_result
from cluster.console.plan import Plan, PlannedFile
from cluster.package import CODE_FOLDER, Package, build_package, list_requirements, map_files
from cluster.ray_private import CLIENT_LOGGERS, create_serve_client

logger = logging.getLogger(__name__)

_CHECK_COMMAND = re.compile(r"-m (finetune_cnn|cluster) check\b")

MAX_POLL_INTERVAL_S = 2  # of a job that is stopping
STOP_TIMEOUT_S = 60
INSTALL_TIMEOUT_S = 1800
FINAL_STATE_TIMEOUT_S = 10  # between the end of a job's log and the end of the job

# Of Ray's clients. OSError: also those of requests. RayError: for example "Timed out while waiting for GCS to become
# available".
CLIENT_ERRORS = (OSError, RuntimeError, ValueError, RayError, aiohttp.ClientError)
NOT_FOUND = "Request failed with status code 404:"  # start of the client's message


class SubmissionError(UsageError):
    """A job could not be submitted, or the connection to it was lost."""


def resolve_dashboard_url(address: str | None = None) -> str:
    """Return the URL of the cluster's dashboard, which accepts jobs and services.

    It is `address`, else `RAY_DASHBOARD_ADDRESS`, else `RAY_ADDRESS` if that is a URL.

    Raises:
        SubmissionError: there is none, or it is not a URL.
        AddressError: its format is unknown.
    """
    for text in (address, os.environ.get("RAY_DASHBOARD_ADDRESS")):
        if text:
            parsed = parse_address(text)
            if parsed.kind != "dashboard":
                raise SubmissionError(f"'{text}' is not the address of a dashboard; write http://HOST:8265")
            return parsed.text
    text = os.environ.get("RAY_ADDRESS", "")
    if text.startswith(("http://", "https://")):
        return parse_address(text).text
    raise SubmissionError("no cluster address; pass --address http://HOST:8265, or set RAY_DASHBOARD_ADDRESS")


def create_client(url: str, kind: str = "job") -> Any:
    """Return Ray's client for jobs, or for services with the kind `serve`.

    Raises:
        SubmissionError: the cluster does not respond, or rejects the connection.
        TokenError: it rejects the token.
    """
    token = auth.enable_token_auth()
    for name in CLIENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    clients: dict[str, Callable[[str], Any]] = {"job": JobSubmissionClient, "serve": create_serve_client}
    try:
        return clients[kind](url)
    except AuthenticationError as error:
        raise auth.TokenError(f"the cluster at {url} {auth.describe_rejection(token)}") from error
    except CLIENT_ERRORS as error:
        raise SubmissionError(f"cannot reach the cluster at {url}: {to_single_line(error)}") from error


@dataclass(frozen=True)
class JobRequest:
    """A command to run as a job: `python -m <module> <arguments>`.

    The code, the experiment files among the arguments, and the files of `include` are sent; nothing else is.

    Attributes:
        address: of the cluster's dashboard, as for `resolve_dashboard_url`.
        working_dir: a checkout whose code is sent instead of the code that is imported here. The files are relative to
            it; otherwise they are relative to the current folder.
        include: further files, such as a small csv. The job reads them under the same paths.
        install: each node first installs the packages that the code needs, for this job only.
    """

    arguments: Sequence[str]
    address: str | None = None
    module: str = "finetune_cnn"
    working_dir: Path | None = None
    include: Sequence[str] = ()
    install: bool = False


def submit_job(
    request: JobRequest,
    *,
    detach: bool = False,
    write: Callable[[str], None] = logger.info,
    confirm: Callable[[str], bool] = lambda question: False,
) -> int:
    """Submit a job, follow its log, and return its exit code.

    Args:
        detach: return 0 once the job is submitted.
        write: called with the lines of the job's log.
        confirm: called on Ctrl-C with the question whether to stop the job too.

    Raises:
        SubmissionError: the cluster does not respond, or rejects the job.
        PackageError: a file does not exist, or a file of `include` is in another folder.
    """
    url = resolve_dashboard_url(request.address)
    client = create_client(url)
    with _prepare(request) as (package, requirements, entrypoint):
        logger.info(package.describe())
        verb = next((word for word in request.arguments if not word.startswith("-")), "-")
        with _wrap_client_errors("the cluster rejects the job"):
            job: str = client.submit_job(
                entrypoint=entrypoint,
                runtime_env=build_runtime_env(package.path, requirements),
                metadata={"owner": _user_name(), "verb": verb},
            )
    address_option = f"--address {url}"
    logger.log(
        RESULT if detach else logging.INFO,
        f"submitted {job}; to follow it later: finetune-cnn job logs {job} --follow {address_option}",
    )
    exit_code = 0 if detach else follow_log(client, job, address_option, write, confirm)
    report_result({"job": job} if detach else {"job": job, "exit_code": exit_code})
    return exit_code


def plan_job(request: JobRequest) -> Plan:
    """Return the plan of `submit_job`, with its errors; the cluster is not contacted."""
    url = resolve_dashboard_url(request.address)
    with _prepare(request) as (package, requirements, entrypoint):
        size = package.path.stat().st_size
    reads = [PlannedFile(name, "sent", num_bytes) for name, num_bytes in package.files]
    starts = {"cluster": url, "job": entrypoint, "packages_to_install": len(requirements)}
    return Plan("submit", reads, starts, [PlannedFile(url, "upload of the code, unless the cluster has it", size)])


@contextmanager
def _prepare(request: JobRequest) -> Iterator[tuple[Package, list[str], str]]:
    """Context manager: the package, the requirements and the entrypoint of a job; errors of `submit_job`."""
    code, folder = request.working_dir or CODE_FOLDER, request.working_dir or Path()
    words, files = map_files(folder, request.arguments, request.include)
    requirements = list_requirements(code) if request.install else []
    package = build_package(code, files)
    try:
        yield package, requirements, shlex.join(["python", "-m", request.module, *words])
    finally:
        shutil.rmtree(package.path.parent, ignore_errors=True)


def follow_log(
    client: JobSubmissionClient,
    job: str,
    address_option: str,
    write: Callable[[str], None] = logger.info,
    confirm: Callable[[str], bool] = lambda question: False,
) -> int:
    """Write a job's log until the job ends, and return its exit code; Ctrl-C asks whether to stop the job.

    Args:
        address_option: the option that names the cluster, for messages.
        write, confirm: as for `submit_job`.

    Raises:
        SubmissionError: the connection to the job is lost.
    """
    try:
        asyncio.run(_follow(client, job, write))
        return _exit_code(client, job, address_option)
    except KeyboardInterrupt:
        if confirm(f"\nstop {job} too?"):
            stop_job(client, job)
        else:
            logger.log(RESULT, f"{job} continues; to stop it: finetune-cnn job stop {job} {address_option}")
        return EXIT_INTERRUPTED
    except CLIENT_ERRORS as error:
        raise SubmissionError(
            f"lost the connection to {job}: {to_single_line(error)}; "
            f"for its state: finetune-cnn job status {job} {address_option}"
        ) from error


def read_log(client: JobSubmissionClient, job: str) -> str:
    """Return the log of a job so far; SubmissionError if it cannot be read."""
    with _wrap_client_errors(f"the log of {job} cannot be read"):
        return client.get_job_logs(job)


def stop_job(client: JobSubmissionClient, job: str) -> None:
    """Stop a job, and wait until it has ended; SubmissionError if it does not."""
    with _wrap_client_errors(f"{job} cannot be stopped"):
        status = client.get_job_status(job)
        if status.is_terminal():
            logger.log(RESULT, f"{job} has ended already: {status}")
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
    logger.log(RESULT, f"{job} was stopped" if status == JobStatus.STOPPED else f"{job} had ended: {status}")


def list_jobs(client: JobSubmissionClient) -> list[JobDetails]:
    """Return the submitted jobs, the oldest first; SubmissionError if they cannot be listed.

    Drivers that only attached to the cluster have no log, and are not among them.
    """
    with _wrap_client_errors("the jobs of the cluster cannot be listed"):
        return sorted((job for job in client.list_jobs() if job.submission_id), key=lambda job: job.start_time or 0)


def latest_job_id(client: JobSubmissionClient) -> str:
    """Return the id of the job that was submitted last, checks excluded; SubmissionError if there is none."""
    jobs = [job for job in list_jobs(client) if not _CHECK_COMMAND.search(job.entrypoint)]
    if not jobs:
        raise SubmissionError("the cluster has no jobs")
    return str(jobs[-1].submission_id)


def get_job(client: JobSubmissionClient, job: str) -> JobDetails:
    """Return the details of a job; SubmissionError if the cluster does not know it."""
    try:
        return client.get_job_info(job)
    except CLIENT_ERRORS as error:
        if str(error).startswith(NOT_FOUND):
            raise SubmissionError(f"the cluster has no job {job}; see finetune-cnn job list") from error
        raise SubmissionError(f"{job}: {to_single_line(error)}") from error


def build_runtime_env(package: Path, requirements: list[str]) -> dict[str, Any]:
    """Return Ray's runtime environment of a job: the code, and packages to install first."""
    environment: dict[str, Any] = {
        "working_dir": str(package),
        "env_vars": {"PYTHONUNBUFFERED": "1"},  # a followed log should not lag by a buffer
    }
    if requirements:
        environment |= {"pip": requirements, "config": {"setup_timeout_seconds": INSTALL_TIMEOUT_S}}
    return environment


@contextmanager
def _wrap_client_errors(problem: str) -> Iterator[None]:
    """Context manager: an error of Ray's client becomes a SubmissionError that names the problem."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise SubmissionError(f"{problem}: {to_single_line(error)}") from error


async def _follow(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> None:
    async for lines in client.tail_job_logs(job):
        write(lines.rstrip("\n"))


def _exit_code(client: JobSubmissionClient, job: str, address_option: str) -> int:
    deadline = time.monotonic() + FINAL_STATE_TIMEOUT_S
    while not (details := client.get_job_info(job)).status.is_terminal():
        if time.monotonic() > deadline:
            raise ConnectionError("its log ended before the job")
        time.sleep(0.5)
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        logger.log(RESULT, f"{job} was stopped")
        return EXIT_INTERRUPTED
    log = f"its log: finetune-cnn job logs {job} {address_option}"
    if details.driver_exit_code:  # the log above has the reason
        logger.log(RESULT, f"{job} failed with exit code {details.driver_exit_code}; {log}")
        return int(details.driver_exit_code)
    logger.log(RESULT, f"{job} failed: {to_single_line(details.message or 'no reason given')}; {log}")
    return 1


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())
