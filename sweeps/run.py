"""The command line: ``python sweeps/run.py``, ``clsweep`` and ``python -m sweeps.run`` are the same."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clcore.errors import UserError
from sweeps import options as o
from sweeps.options import COST, HOW, WHAT, WHERE, option, option_values, typed_option
from trackers.command import HOME, console_here, run, typed_command

EXAMPLES = """
Examples:

  python sweeps/run.py --method tfm --space grid

  python sweeps/run.py --method hat --space tpe --trials 30 --seeds 3 --benchmark permuted-mnist --set epochs=5

  python sweeps/run.py --method hat --space my_space.toml --set smax=200 --dry-run

  python sweeps/run.py --resume NAME
"""
AGAIN = "What is run again"

#: Parameters of the command that are not settings.
NO_SETTING = ("dry_run", "list_", "resume", "replay", "fork", "at_task")

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES)
def sweep(  # noqa: PLR0913 - one parameter an option; it only collects them
    method: Annotated[str | None, option("--method", WHAT, "method, or a FILE.py that sets METHOD; see --list")] = None,
    space: Annotated[str | None, option("--space", WHAT, "grid, random, tpe, nsga2, default (a cell), FILE.toml", "grid")] = None,
    benchmark: o.Benchmark = None,
    network: o.Network = None,
    scenario: Annotated[str | None, option("--scenario", WHAT, "task-il, domain-il, class-il or task-free", "task-il")] = None,
    tasks: o.Tasks = None,
    classes_per_task: o.ClassesPerTask = None,
    larger_first_task: Annotated[int | None, option("--larger-first-task", WHAT, "classes of task 1", "as the others")] = None,
    assign: Annotated[list[str] | None, option("--set", WHAT, "KEY=VALUE, any hyperparameter or setting; may be repeated")] = None,
    trials: o.Trials = None,
    seeds: Annotated[str | None, option("--seeds", COST, "how many (3: 0,1,2), or which (4,7 or 4,)", "1")] = None,
    references: Annotated[bool | None, option("--references/--no-references", COST, (
        "run joint training and random guessing once a seed where the home lacks them, for HAT's forgetting ratio"
    ), "no-references")] = None,
    time_budget: Annotated[float | None, option("--time-budget", COST, "seconds after which nothing new starts", "none")] = None,
    home: Annotated[Path | None, option("--home", WHERE, HOME, "runs")] = None,
    name: Annotated[str | None, option("--name", WHERE, "name of the sweep", "METHOD-SPACE-DIGEST")] = None,
    tracking_uri: o.TrackingUri = None,
    storage: Annotated[str | None, option("--storage", WHERE, "checkpoints: a shared path or s3://..", "in the home")] = None,
    keep: Annotated[str | None, option("--keep", WHERE, "weights of: final, every-task (for --fork), best", "final")] = None,
    keep_bytes: Annotated[str | None, option("--keep-bytes", WHERE, "of weights, e.g. 2GB; the worst go first", "any")] = None,
    data_dir: o.DataDir = None,
    resume: Annotated[str | None, option("--resume", WHERE, "NAME of a sweep to go on with; needs no other option")] = None,
    pack: o.Pack = None,
    compiled: o.Compiled = None,
    executor: o.Executor = None,
    device: o.Device = None,
    cpus: o.Cpus = None,
    gpus_per_trial: o.GpusPerTrial = None,
    memory: Annotated[float | None, option("--memory", HOW, "GiB of memory set aside for a pack", "not counted")] = None,
    workers: o.Workers = None,
    address: o.Address = None,
    ship: Annotated[bool | None, option(
        "--ship", HOW, "send the working tree, our code included, to the nodes of --address", "what is installed there"
    )] = None,
    dry_run: o.DryRun = False,
    list_: Annotated[bool, option("--list", HOW, "show what there is; with --method, its keys")] = False,
    replay: Annotated[str | None, option("--replay", AGAIN, "RUN_ID of a trial in MLflow: run it, and compare", "none")] = None,
    fork: Annotated[str | None, option("--fork", AGAIN, "RUN_ID of a trial to go on from with other values", "none")] = None,
    at_task: Annotated[int | None, option("--at-task", AGAIN, "of --fork: first task that --set is for, from 2", "none")] = None,
) -> None:  # fmt: skip
    """Sweeps the hyperparameters of a continual-learning method and records every trial in MLflow."""
    given, console = _given(locals()), console_here()
    if list_:
        from sweeps.listing import show

        show(console, method)
        raise typer.Exit(0)
    if replay is not None:
        _alone("--replay", {"--resume": resume, "--fork": fork, "--at-task": at_task, "--dry-run": dry_run or None})
        raise typer.Exit(_replay(replay, given, console))
    from sweeps import planned, session

    question = _question(fork, at_task, given, resume, console)
    if dry_run:
        planned.dry_run(question, console)
        raise typer.Exit(0)
    raise typer.Exit(session.run(question, console, typed_command()))


def _replay(run_id: str, given: dict[str, Any], console: Any) -> int:
    """Runs a recorded trial again; the exit code."""
    from sweeps import replay

    return replay.replay(run_id, given, console)


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    """The settings among the command's parameters, those that were given."""
    return {name: value for name, value in parameters.items() if name not in NO_SETTING and value is not None}


def _alone(option: str, others: dict[str, Any]) -> None:
    """Sees that none of the other options was given."""
    for name, value in others.items():
        if value is not None:
            raise UserError(f"{name} does not go with {option}.")


def _question(fork: str | None, at_task: int | None, given: dict[str, Any], resume: str | None, console: Any) -> Any:
    """What is asked, checked: a sweep, or the fork of a trial, of which it is said what is learned again."""
    from sweeps.asked import ask

    if fork is None:
        if at_task is not None:
            raise UserError("--at-task goes with --fork alone.")
        return ask(_settings(given, resume))
    from sweeps.fork import announce, fork_settings

    _alone("--fork", {"--resume": resume})
    question = ask(fork_settings(fork, at_task, option_values(given)))
    announce(question.settings, console)
    return question


def given_in(words: Sequence[str]) -> tuple[dict[str, Any], str | None]:
    """The options that a command line gives, as they were typed, and the sweep that it resumes; takes no time.

    Raises:
        UserError: there is no such option, or it asks for something else than a sweep.
    """
    found = typer.main.get_command(app).make_context("sweep", [*words]).params
    others = {typed_option(name): found[name] or None for name in NO_SETTING if name != "resume"}
    _alone("a cluster", others)
    return _given(found), found["resume"]


def settings_of(words: Sequence[str]) -> Any:
    """The settings of a command line, for who runs it elsewhere; nothing is run.

    Raises:
        UserError: an option is wrong, or it asks for something else than a sweep.
    """
    return _settings(*given_in(words))


def _settings(given: dict[str, Any], resume: str | None) -> Any:
    """Settings from the options that were given, over those of the sweep to resume; it goes on where it is told to."""
    from sweeps.settings import validated
    from trackers.manifest import MANIFEST, read_manifest

    values = option_values(given)
    if resume is not None:
        home = Path(given.get("home", "runs"))
        stored = read_manifest(home / resume / MANIFEST)["settings"]
        return validated({**stored, "address": None, "ship": False, **values, "home": home, "name": resume})
    if "method" not in values:
        raise UserError("--method is missing: name one, e.g. --method tfm, or see --list.")
    return validated(values)


def main() -> int:
    """Runs the command line; returns the exit code. A user's mistake is one line on standard error."""
    return run(app)


if __name__ == "__main__":
    sys.exit(main())
