"""The jobs of a cluster, seen from outside: which there are, how one is, and what it said."""

import time
from typing import Any

from cluster.ray_jobs import SubmissionError, to_single_line


def latest_job_id(client: Any) -> str:
    """Return the id of the job that was submitted last; SubmissionFailed if there is none."""
    found = _submitted(client)
    if not found:
        raise SubmissionError("the cluster knows of no job")
    return found[-1].submission_id


def get_job(client: Any, job: str) -> Any:
    """Return what the cluster knows of a job; SubmissionFailed if it does not know it."""
    try:
        return client.get_job_info(job)
    except (RuntimeError, ConnectionError) as error:
        if "does not exist" in str(error) or "404" in str(error):
            raise SubmissionError(f"the cluster knows of no job {job}; python -m cluster list") from error
        raise SubmissionError(f"{job}: {to_single_line(error)}") from error


def format_job_table(client: Any, now: float | None = None) -> list[str]:
    """Return a line a job, the oldest first, with its state, age, duration and command."""
    found = _submitted(client)
    width = max((len(job.submission_id) for job in found), default=3)
    head = f"{'job':{width}}  {'state':9}  {'started':>8}  {'took':>8}  command"
    return [head, *(_line(job, width, time.time() if now is None else now) for job in found)]


def format_job(job: Any, now: float | None = None) -> list[str]:
    """Return a job's facts, a line each."""
    now = time.time() if now is None else now
    lines = [
        f"job      {job.submission_id}",
        f"state    {job.status.value}",
        f"command  {job.entrypoint}",
        f"started  {_ago(job, now)}",
        f"took     {_took(job, now)}",
    ]
    if job.driver_exit_code is not None:
        lines.append(f"exit     {job.driver_exit_code}")
    if job.message and job.status.is_terminal():
        lines.append(f"reason   {to_single_line(job.message)}")
    return lines


def _submitted(client: Any) -> list[Any]:
    """Return jobs that were submitted, the oldest first; drivers that only attached have no log here."""
    try:
        return sorted((job for job in client.list_jobs() if job.submission_id), key=lambda job: job.start_time or 0)
    except (RuntimeError, ConnectionError) as error:
        raise SubmissionError(f"the cluster does not tell its jobs: {to_single_line(error)}") from error


def _line(job: Any, width: int, now: float) -> str:
    times = f"{_ago(job, now):>8}  {_took(job, now):>8}"
    return f"{job.submission_id:{width}}  {job.status.value:9}  {times}  {job.entrypoint}"


def _ago(job: Any, now: float) -> str:
    return f"{_duration(now - job.start_time / 1000)} ago" if job.start_time else "-"


def _took(job: Any, now: float) -> str:
    if not job.start_time:
        return "-"
    return _duration((job.end_time / 1000 if job.end_time else now) - job.start_time / 1000)


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as `3 min`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
