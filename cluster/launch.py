"""The same sweep on many machines: ``python cluster/launch.py local|attach|submit|render|tracking``."""

import sys

import typer

from cluster.attach import attach
from cluster.local import local
from cluster.render import render
from cluster.submit import submit
from cluster.tracking import tracking
from trackers.command import run

EXAMPLES = """
Examples:

  python cluster/launch.py local --nodes 3 --cpus-per-node 1 -- --method hat --space grid

  python cluster/launch.py attach HOST:6379 --token-file FILE -- --method hat --space grid --home /shared/runs

  python cluster/launch.py submit http://HOST:8265 -- --method hat --space grid --home /shared/runs

  python cluster/launch.py render slurm --workers 8 --storage /shared/runs --tracking-uri URI -- --method hat --space grid

  python cluster/launch.py tracking --backend postgresql://USER@HOST/mlflow
"""

app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, no_args_is_help=True, epilog=EXAMPLES
)
for command in (local, attach, submit, render, tracking):
    app.command()(command)


@app.callback()
def _launch() -> None:
    """Runs the sweep that stands behind -- on a Ray cluster. What it finds is what one machine finds."""


def main() -> int:
    """Runs the command line; returns the exit code. A user's mistake is one line on standard error."""
    return run(app)


if __name__ == "__main__":
    sys.exit(main())
