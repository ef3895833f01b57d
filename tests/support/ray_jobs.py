"""Ray jobs as Ray describes them, without a cluster."""

from typing import Any

from ray.job_submission import JobDetails, JobStatus, JobType


def make_job(name: str, status: JobStatus, start: int | None, end: int | None = None, **details: Any) -> JobDetails:
    """Return a job as Ray describes it; times in seconds."""
    return JobDetails(
        type=JobType.SUBMISSION,
        submission_id=name,
        status=status,
        entrypoint=f"python -m finetune_cnn train {name}.yaml",
        start_time=start and start * 1000,
        end_time=end and end * 1000,
        **details,
    )
