"""python -m cluster submit -- train my.yaml: run a verb of `python -m jobs` on a cluster."""

import argparse
import sys
from pathlib import Path

from cluster import UsageError


def main(arguments: list[str] | None = None) -> int:
    """Run a verb and return the exit code: the job's own, or 2 for a mistake of the user's."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster", description="Run jobs on a Ray cluster.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    text = "send this repository and run `python -m jobs ...` there, following its log"
    submit = verbs.add_parser("submit", help=text, description=text)
    submit.set_defaults(run=_submit)
    submit.add_argument("--address", help="http://HOST:8265 (default: RAY_DASHBOARD_ADDRESS)")
    submit.add_argument("--detach", action="store_true", help="return once the job is submitted")
    submit.add_argument("--working-dir", type=Path, help="the folder to send (default: this repository)")
    submit.add_argument(
        "--include", action="append", default=[], metavar="FILE", help="also send this file, such as a small csv"
    )
    submit.add_argument("--module", default="jobs", choices=("jobs", "serving"), help="default: jobs")
    submit.add_argument("arguments", nargs="+", metavar="-- VERB ...", help="as for python -m jobs")
    return parser


def _submit(options: argparse.Namespace) -> int:
    from cluster.package import REPOSITORY
    from cluster.submission import submit

    return submit(
        options.arguments,
        address=options.address,
        module=options.module,
        folder=options.working_dir or REPOSITORY,
        include=options.include,
        detach=options.detach,
        say=lambda line: print(line, flush=True),
    )


if __name__ == "__main__":
    sys.exit(main())
