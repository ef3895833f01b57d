"""Commands of jobs: submit, and the group job with list, status, logs and stop."""

import argparse
import functools
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.console.cli import CommandGroup
from cluster.console.output import add_dry_run, print_plan, report_result

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

write_line = functools.partial(print, flush=True)


def add_submit(commands: CommandGroup) -> None:
    """Add the command submit."""
    submit = commands.add_command("submit", _submit, "run a command on the cluster, and follow its log")
    submit.usage = "%(prog)s [options] -- COMMAND ..."
    submit.description = (
        "Send the code to the cluster, run a finetune-cnn command there, and follow its log. Only the code (of a git "
        "checkout: what git tracks), the experiment files (.yaml) among the arguments, and the files of --include are "
        "sent: no data, no other files."
    )
    submit.add_argument("--detach", action="store_true", help="return once the job is submitted")
    add_include(submit)
    add_dry_run(submit)
    submit.add_argument(
        "--install",
        action="store_true",
        help="on nodes that lack packages: install them first, in the versions of requirements.lock in a checkout, "
        "else in those that are installed here",
    )
    submit.add_argument(
        "--working-dir",
        type=Path,
        metavar="CHECKOUT",
        help="send the code of this checkout instead; the experiment and --include are then relative to it",
    )
    # Before there was one command for everything, this chose between two.
    submit.add_argument("--module", default="finetune_cnn", choices=("jobs", "serving"), help=argparse.SUPPRESS)
    _add_dashboard_address(submit)
    submit.add_argument(
        "arguments",
        nargs="+",
        metavar="-- COMMAND ...",
        help="as for finetune-cnn, for example: -- train my.yaml storage=s3://bucket/runs",
    )


def add_include(parser: argparse.ArgumentParser) -> None:
    """Add the option --include."""
    text = "also send this file of the current folder, such as a small csv; may be repeated"
    parser.add_argument("--include", action="append", default=[], metavar="FILE", help=text)


def add_job_commands(commands: CommandGroup) -> None:
    """Add the commands list, status, logs and stop."""
    parsers = [commands.add_command("list", _list, "print all jobs of the cluster")]
    status = commands.add_command("status", _status, "print a job's state")
    logs = commands.add_command("logs", _logs, "print a job's log")
    logs.add_argument("--follow", action="store_true", help="until the job ends; exit with its exit code")
    stop = commands.add_command("stop", _stop, "stop a job")
    for parser in (status, logs, stop):
        parser.add_argument("job", nargs="?", help="default: the job that was submitted last")
        parsers.append(parser)
    for parser in parsers:
        _add_dashboard_address(parser)


def _add_dashboard_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", help="http://HOST:8265 (default: RAY_DASHBOARD_ADDRESS)")


def _submit(options: argparse.Namespace) -> int:
    if options.working_dir is None:  # the code of another checkout decides about its commands
        options.command_line.validate(options.arguments)
    from cluster.ray_jobs import JobRequest, plan_job, submit_job

    request = JobRequest(**{field.name: getattr(options, field.name) for field in fields(JobRequest)})
    if options.dry_run:
        print_plan(plan_job(request))
        return 0
    return submit_job(request, detach=options.detach, write=write_line, confirm=confirm)


def _list(options: argparse.Namespace) -> None:
    from cluster.console.job_tables import describe_job, format_job_table
    from cluster.ray_jobs import list_jobs

    jobs = list_jobs(_create_client(options))
    write_line(format_job_table(jobs))
    report_result({"jobs": [describe_job(job) for job in jobs]})


def _status(options: argparse.Namespace) -> None:
    from cluster.console.job_tables import describe_job, format_job
    from cluster.ray_jobs import get_job

    client, job = _select_job(options)
    details = get_job(client, job)
    for line in format_job(details):
        write_line(line)
    report_result(describe_job(details))


def _logs(options: argparse.Namespace) -> int:
    from cluster.ray_jobs import follow_log, read_log

    client, job = _select_job(options)
    if not options.follow:
        log = read_log(client, job)
        print(log, end="")
        report_result({"job": job, "log": log})
        return 0
    address_option = f"--address {options.address}" if options.address else ""
    code = follow_log(client, job, address_option, write_line, confirm)
    report_result({"job": job, "exit_code": code})
    return code


def _stop(options: argparse.Namespace) -> None:
    from cluster.console.job_tables import describe_job
    from cluster.ray_jobs import get_job, stop_job

    client, job = _select_job(options)
    stop_job(client, job)
    report_result(describe_job(get_job(client, job)))


def _select_job(options: argparse.Namespace) -> "tuple[JobSubmissionClient, str]":
    """Return a client, and the id of the job in the options: by default the latest."""
    from cluster.ray_jobs import get_job, latest_job_id

    client = _create_client(options)
    job = options.job or latest_job_id(client)
    get_job(client, job)
    return client, job


def _create_client(options: argparse.Namespace) -> "JobSubmissionClient":
    from cluster.ray_jobs import create_client, resolve_dashboard_url

    client: JobSubmissionClient = create_client(resolve_dashboard_url(options.address))
    return client


def confirm(question: str) -> bool:
    """Return whether the user answers yes; False without a terminal."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False
