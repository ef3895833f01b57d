"""Tables of Ray jobs for the console."""

from ray.job_submission import JobStatus

from cluster.console.job_tables import describe_job, format_job, format_job_table
from tests.support.ray_jobs import make_job


def test_jobs_have_owner_verb_state_age_duration_and_command() -> None:
    """What is unknown is a dash."""
    jobs = [
        make_job("first", JobStatus.PENDING, None),
        make_job("older", JobStatus.FAILED, 2000, 2200),
        make_job("new", JobStatus.RUNNING, 9000, metadata={"owner": "ada", "verb": "train", "job_name": "x"}),
    ]
    assert format_job_table(jobs, now=9200).splitlines() == [
        "job    owner  verb   state    started    took   command",
        "first  -      -      PENDING  -          -      python -m finetune_cnn train first.yaml",
        "older  -      -      FAILED   2 h ago    3 min  python -m finetune_cnn train older.yaml",
        "new    ada    train  RUNNING  3 min ago  3 min  python -m finetune_cnn train new.yaml",
    ]
    assert format_job_table([]) == "job  owner  verb  state  started  took  command"


def test_a_command_is_whole_and_on_one_line_of_the_table() -> None:
    """Its end has the settings that tell two jobs apart."""
    job = make_job("a", JobStatus.RUNNING, 100)
    job.entrypoint = f"sh -c 'one\n two' {'x' * 200} seed=3"
    [_, line] = format_job_table([job], now=200).splitlines()
    assert line.endswith(f"  sh -c 'one two' {'x' * 200} seed=3")
    assert f"command  {job.entrypoint}" in format_job(job, now=200)


def test_the_state_of_a_job_is_one_line_per_fact() -> None:
    """The reason of an end is on one line."""
    job = make_job("a", JobStatus.FAILED, 100, 130, driver_exit_code=3, message="it\nfailed")
    assert format_job(job, now=200) == [
        "job      a",
        "state    FAILED",
        "command  python -m finetune_cnn train a.yaml",
        "started  2 min ago",
        "took     30 s",
        "exit     3",
        "reason   it failed",
    ]


def test_a_job_is_a_json_object_for_programs() -> None:
    """With times in seconds; what is unknown is None."""
    metadata = {"owner": "ada", "verb": "train"}
    job = make_job("a", JobStatus.FAILED, 100, 130, driver_exit_code=3, message="it\nfailed", metadata=metadata)
    assert describe_job(job) == {
        "job": "a",
        **metadata,
        "state": "FAILED",
        "command": "python -m finetune_cnn train a.yaml",
        "start_time": 100,
        "end_time": 130,
        "exit_code": 3,
        "message": "it\nfailed",
    }
    assert describe_job(make_job("b", JobStatus.PENDING, None))["start_time"] is None
