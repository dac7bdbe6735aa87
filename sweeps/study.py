"""Questions that take several sweeps: ``python sweeps/study.py robustness | compression | compare``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.console import Console

from clcore.errors import BadValue, UserError
from sweeps import options as o
from sweeps.studies.options import Common, Corruptions, Shared, common, method_names, repeating, with_shared
from trackers.command import console_here, run, say, typed_command

if TYPE_CHECKING:
    from sweeps.studies.answers import Answers
    from sweeps.studies.plan import Needed
    from sweeps.studies.report import Report

EXAMPLES = """
Examples:

  python sweeps/study.py robustness --method hat --benchmark permuted-mnist --seeds 5

  python sweeps/study.py compression --methods hat,hnet --benchmark split-mnist

  python sweeps/study.py compare --methods hat,tfm,finetune,joint --benchmark split-mnist --seeds 5 --tune 20

The same command goes on where it was stopped, and runs nothing that the home has.
"""
app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, epilog=EXAMPLES)


class Question(Protocol):
    """What a study asks for."""

    @property
    def common(self) -> Common:
        """What its sweeps share."""

    def first(self) -> "list[Needed]":
        """Sweeps whose results decide which others are needed."""

    def sweeps(self, answers: "Answers") -> "list[Needed]":
        """The others, as far as they are known by now."""

    def report(self, answers: "Answers", command: str) -> "Report":
        """What came out."""


@app.callback()
def _studies() -> None:
    """Questions that take several sweeps, each answered by one command with a report."""


@app.command(epilog=EXAMPLES)
@with_shared
def robustness(
    shared: Shared,
    method: Annotated[str | None, o.option("--method", o.WHAT, "method; see python sweeps/run.py --list")] = None,
    knobs: Annotated[str | None, o.option("--knobs", o.WHAT, "one or two hyperparameters, e.g. smax,c", "the method's own")] = None,
    space: Annotated[str, o.option("--space", o.WHAT, "grid; or random, tpe: all that the method declares", True)] = "grid",
    cells: Annotated[str, o.option("--cells", o.COST, "values of each knob, e.g. 4x4", True)] = "4",
    trials: o.Trials = None,
    references: Annotated[
        bool | None,
        o.option("--references/--no-references", o.COST, "joint training and guessing once a seed, for rho", "for hat"),
    ] = None,
    corruptions: Corruptions = True,
) -> None:
    """How much a method's results hang on its hyperparameters: a grid over seeds, analysed."""
    names = method_names(method, "--method")
    if len(names) > 1:
        raise BadValue("--method", method, "one method; each has knobs of its own")
    from sweeps.studies.robust import Turned
    from sweeps.studies.robust import robustness as ask

    turned = Turned(knobs, cells, space, trials)
    _carry_out(ask(names[0], common(shared, names), turned, references, corruptions), names[0], shared)


@app.command(epilog=EXAMPLES)
@with_shared
def compression(
    shared: Shared,
    methods: Annotated[str | None, o.option("--methods --method", o.WHAT, "methods, joined by commas")] = None,
    space: Annotated[str, o.option("--space", o.WHAT, "grid; or nsga2: a search for the front over all knobs", True)] = "grid",
    cells: Annotated[int, o.option("--cells", o.COST, "values of a knob", True)] = 5,
    trials: Annotated[int | None, o.option("--trials", o.COST, "configurations of each method, of nsga2", "20")] = None,
    isolated: Annotated[
        bool | None, o.option("--isolated/--no-isolated", o.COST, "HAT on single tasks beside plain training", "for hat")
    ] = None,
    export: Annotated[Path | None, o.option("--export", o.WHERE, "folder for the best of each method as files", "none")] = None,
) -> None:
    """How small a method's network can be, and what that costs in accuracy."""
    names = method_names(methods, "--methods")
    from sweeps.studies.shrinking import Varied
    from sweeps.studies.shrinking import compression as ask

    varied = Varied(space, cells, trials)
    _carry_out(ask(names, common(shared, names), varied, isolated, export), names[0], shared)


@app.command(epilog=EXAMPLES)
@with_shared
def compare(
    shared: Shared,
    methods: Annotated[str | None, o.option("--methods", o.WHAT, "methods, joined by commas; joint adds HAT's rho")] = None,
    tune: Annotated[int | None, o.option("--tune", o.COST, "try N random configurations of each method first, on one seed")] = None,
    corruptions: Corruptions = False,
) -> None:
    """The table of a paper: methods over the same seeds, with intervals, paired tests and curves."""
    from sweeps.studies.comparing import Comparison

    names = method_names(methods, "--methods")
    _carry_out(Comparison.of(names, common(shared, names), tune, corruptions), names[0], shared)


def _carry_out(question: Question, method: str, shared: Shared) -> None:
    """Runs what is missing, writes the report, publishes it; ends with the exit code."""
    from sweeps.studies import running

    if shared.dry_run and shared.from_record:
        raise UserError("--dry-run does not go with --from-record.")
    console, command = console_here(), repeating(typed_command())
    if shared.from_record and not question.common.home.is_dir():
        raise UserError(f"--home {question.common.home} is not there: there is nothing to read.")
    checked = running.check_names if shared.from_record else running.check_first
    checked(question.common, method)
    if shared.dry_run:
        running.dry_run([*question.first(), *question.sweeps(_answers(question))], console)
        raise typer.Exit(0)
    if not shared.from_record:
        code = _run(question, console, command)
        if code:
            say(console, "the study is not finished: the same command goes on")
            raise typer.Exit(code)
    raise typer.Exit(_tell(question, console, command))


def _run(question: Question, console: Console, command: str) -> int:
    from sweeps.studies import running

    first = question.first()
    if first:
        running.check(first)
        code = running.run(first, console, command)
        if code:
            return code
    others = question.sweeps(_answers(question))
    running.check(others)
    return running.run(others, console, command)


def _answers(question: Question) -> "Answers":
    from sweeps.studies.answers import Answers

    return Answers(question.common.home)


def _tell(question: Question, console: Console, command: str) -> int:
    """Writes and publishes the report, and says the gist of it.

    Raises:
        UserError: there is nothing to report.
    """
    from rich.markdown import Markdown

    from sweeps.studies.answers import failures
    from sweeps.studies.closing import missing_lines, used_sweeps
    from sweeps.studies.report import write

    answers = _answers(question)
    sweeps = [*question.first(), *question.sweeps(answers)]
    missing, used = missing_lines(sweeps, answers), used_sweeps(sweeps, answers)
    if not used:
        for line in missing:
            say(console, f"missing        {line}")
        raise UserError(f"--home {question.common.home} has nothing of this study: no report is written.")
    say(console, "writing the report")
    report = question.report(answers, command)
    page = write(report)
    table = next(iter(report.tables)).markdown()
    console.print(Markdown(table)) if console.is_terminal else say(console, table)
    say(console, f"\n{report.lead}\n")
    for line in missing:
        say(console, f"missing        {line}")
    _publish(report, used, console, command)
    say(console, f"the report     {page}")
    return 1 if failures(sweeps) else 0


def _publish(report: "Report", sweeps: Sequence[str], console: Console, command: str) -> None:
    from sweeps.studies.published import publish
    from trackers.mlflow_store import TRACKING_ERRORS, first_line

    try:
        run_id = publish(report, sweeps, command)
    except (*TRACKING_ERRORS, UserError) as error:
        say(console, f"MLflow         not up to date ({first_line(error)}); the same command with --from-record writes it")
        return
    say(console, f"MLflow         run {run_id} of {report.study.first.tracking}")


def main(words: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code. A user's mistake is one line on standard error."""
    return run(app, words)


if __name__ == "__main__":
    sys.exit(main())
