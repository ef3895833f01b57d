"""Tables of Ray jobs for the console."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cluster import to_single_line
from cluster.console.tables import format_text_table

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

TABLE_COLUMNS = ("job", "owner", "verb", "state", "started", "took", "command")


def format_job_table(jobs: "Sequence[JobDetails]", now: float | None = None) -> str:
    """Return a table of jobs with owner, verb, state, age, duration and the whole command."""
    now = time.time() if now is None else now
    rows = [{column: str(_get_facts(job, now).get(column, "-")) for column in TABLE_COLUMNS} for job in jobs]
    if not rows:
        return "  ".join(TABLE_COLUMNS)
    for row in rows:
        row["command"] = " ".join(row["command"].split())
    return format_text_table(rows)


def format_job(job: "JobDetails", now: float | None = None) -> list[str]:
    """Return the state of a job, one line per fact."""
    now = time.time() if now is None else now
    facts = _get_facts(job, now)
    if job.driver_exit_code is not None:
        facts["exit"] = job.driver_exit_code
    if job.message and job.status.is_terminal():
        facts["reason"] = to_single_line(job.message)
    return [f"{name:8} {value}" for name, value in facts.items()]


def describe_job(job: "JobDetails") -> Mapping[str, object]:
    """Return a job as JSON values; times in seconds since 1970."""
    return {
        "job": job.submission_id,
        "owner": (job.metadata or {}).get("owner"),
        "verb": (job.metadata or {}).get("verb"),
        "state": job.status.value,
        "command": job.entrypoint,
        "start_time": job.start_time and job.start_time / 1000,
        "end_time": job.end_time and job.end_time / 1000,
        "exit_code": job.driver_exit_code,
        "message": job.message,
    }


def _get_facts(job: "JobDetails", now: float) -> dict[str, object]:
    """Return what is known of a job in every state; a job that another tool submitted has no owner and no verb."""
    metadata = {key: value for key, value in (job.metadata or {}).items() if key in ("owner", "verb")}
    return {
        "job": job.submission_id,
        **metadata,
        "state": job.status.value,
        "command": job.entrypoint,
        "started": _format_age(job, now),
        "took": _format_duration(job, now),
    }


def _format_age(job: "JobDetails", now: float) -> str:
    return f"{_format_seconds(now - job.start_time / 1000)} ago" if job.start_time else "-"


def _format_duration(job: "JobDetails", now: float) -> str:
    if not job.start_time:
        return "-"
    return _format_seconds((job.end_time / 1000 if job.end_time else now) - job.start_time / 1000)


def _format_seconds(seconds: float) -> str:
    """Return a duration in its largest unit, such as `3 min`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
