"""``python trackers/export.py RUN_ID|SWEEP[/TRIAL] --to DIR``: a finished trial as the files that a deployment keeps."""

import difflib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clcore.errors import BadValue, UnknownName, UserError
from trackers.check import own_database
from trackers.command import DataDir, Home, RunFiles, TrackingUri, console_here, find_sweep, run, say

if TYPE_CHECKING:
    from clcore.export import Cut, Written
    from clcore.predictor import Predictor

EXAMPLES = """
Examples:

  python trackers/export.py tfm-grid-20d5a3a3 --to deployed

  python trackers/export.py tfm-grid-20d5a3a3/4c1f0b --to deployed --task 2

  python trackers/export.py 3f2a90c1d5b84e6f9a7c0b1d2e3f4a5b --to deployed --tracking-uri http://127.0.0.1:5000
"""

#: Most trials that a message names.
_NAMED = 4

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES)
def show(
    what: Annotated[
        str, typer.Argument(metavar="RUN_ID|SWEEP[/TRIAL]", help="MLflow's id of a finished trial; or a sweep's best, or one of it")
    ],
    to: Annotated[Path, typer.Option(help="folder to write to; made if need be")],
    task: Annotated[int | None, typer.Option(help="one task alone, from 0", show_default="all of them, together and each")] = None,
    cut: Annotated[
        str, typer.Option(help="units that one task goes without: negligible (answers stay) or masked (HAT, section 4.4)")
    ] = "negligible",
    home: Home = Path("runs"),
    tracking_uri: TrackingUri = None,
    data_dir: DataDir = None,
    run_files: RunFiles = False,
) -> None:
    """Writes a trial's tasks together, as few bytes as it takes, and each as a plain network without dead units."""
    from trackers.predictors import recorded_predictor, stored_predictor
    from trackers.recorded import client_of, is_run_id

    if is_run_id(what):
        client = client_of(tracking_uri or own_database(home))
        predictor, _ = recorded_predictor(client, what, data_dir, run_files)
    else:
        predictor, _ = stored_predictor(find_trial(what, home), data_dir, run_files)
    console = console_here()
    for written in export(predictor, to, task, _cut(cut)):
        say(console, _line(written))
    say(console, f"learning more  {predictor.learning_bytes():,} bytes, which are in no file: they are the trial's checkpoint")


def export(predictor: "Predictor", folder: Path, task: int | None = None, cut: "Cut" = "negligible") -> "list[Written]":
    """Writes ``all.safetensors`` and ``task-0.safetensors``, ``task-1.safetensors`` and so on; or one task's file alone.

    A method whose answers are more than a network's has the first alone.

    Args:
        predictor: the finished trial.
        folder: made if need be.
        task: from 0; None: all.
        cut: see :func:`clcore.export.write_task`.

    Raises:
        UserError: no such task, a method that has no file of one task, weights that do not come from the seed here, or a
            folder that cannot be written.
    """
    from clcore.export import is_plain, write_all, write_task

    try:
        if task is not None:
            return [write_task(predictor, task, folder / f"task-{task}.safetensors", cut)]
        tasks = range(predictor.tasks) if is_plain(predictor) else ()
        together = write_all(predictor, folder / "all.safetensors")
        return [together, *(write_task(predictor, t, folder / f"task-{t}.safetensors", cut) for t in tasks)]
    except OSError as error:
        raise UserError(f"--to {folder} cannot be written: {error.strerror or error}.") from None


def find_trial(what: str, home: Path) -> Path:
    """The folder of a finished trial.

    Args:
        what: ``SWEEP``: the lowest seed of its best configuration on validation data; ``SWEEP/TRIAL``: that one, whose
            identity may be cut short where that is clear.
        home: the folder of all sweeps.

    Raises:
        UserError: there is no such sweep or trial, or nothing of it is finished.
    """
    from trackers.record import load
    from trackers.summary import configurations

    folder, wanted = _sweep_and_trial(what, home)
    record = load(folder)
    done = {name: trial for name, trial in record.trials.items() if trial.status == "done" and trial.artifacts}
    if wanted:
        names = [wanted] if wanted in done else [name for name in done if name.startswith(wanted)]
        if len(names) != 1:
            raise _no_trial(wanted, names, done)
    else:
        best = configurations(record)
        if not best:
            raise UserError(f"nothing of sweep {record.name} is finished: there is nothing to export.")
        names = [min(best[0].finals, key=lambda final: final.seed).trial]
    return folder / str(done[names[0]].artifacts)


def _no_trial(wanted: str, names: Sequence[str], done: Collection[str]) -> UserError:
    """What is said where none, or several, are meant; a sweep may have thousands, of which a few are named."""
    if names:
        return UserError(f"finished trial {wanted!r} may be any of {len(names)}: {_few(names)}.")
    if not done:
        return UserError(f"unknown finished trial {wanted!r}: nothing of this sweep is finished.")
    near = difflib.get_close_matches(wanted, done, n=_NAMED, cutoff=0.0)
    return UserError(f"unknown finished trial {wanted!r}: it is none of the {len(done)} that are. The nearest: {_few(near)}.")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" .." if len(names) > _NAMED else "")


def _sweep_and_trial(what: str, home: Path) -> tuple[Path, str]:
    try:
        return find_sweep(what, home), ""
    except UnknownName:
        sweep, slash, trial = what.rpartition("/")
        if not (slash and sweep and trial):
            raise
        return find_sweep(sweep, home), trial


def _cut(name: str) -> "Cut":
    from clcore.export import CUTS

    for cut in CUTS:
        if cut == name:
            return cut
    raise BadValue("--cut", name, f"one of {', '.join(CUTS)}")


def _line(written: "Written") -> str:
    name = f"{written.path.name:<17}"
    sizes = f"{written.bytes:>12,} bytes = {written.kept:,} + a header of {written.header:,}"
    if written.task is None:
        return f"{name} {sizes}"
    lost = "" if written.gate <= 0 else f"; the largest gate cut is {written.gate:.2g}"
    return f"{name} {sizes}; {written.share:.1%} of the body's weights{lost}"


def main() -> int:
    """Runs the command line; returns the exit code."""
    return run(app)


if __name__ == "__main__":
    sys.exit(main())
