"""``python trackers/archive.py pack SWEEP`` and ``unpack FILE``: a sweep as one file that merges into another home."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from clcore.errors import UserError
from trackers.command import Home, Sweep, console_here, find_sweep, is_sweep, run, say
from trackers.lock import LOCK, only_one
from trackers.manifest import MANIFEST, read_manifest
from trackers.parcel import Parcel, open_parcel, write_parcel
from trackers.record import JOURNAL, load
from trackers.schema import is_place

EXAMPLES = """
Examples:

  python trackers/archive.py pack tfm-grid-20d5a3a3 --home runs

  python trackers/archive.py unpack tfm-grid-20d5a3a3.zip --home elsewhere
"""
MARGIN = 16 * 1024**2  # bytes left free on the disk
_ALWAYS = (MANIFEST, "log.txt", "study.log")
_FOLDERS = ("trials", "report")
_SCRATCH = ".unpacking"
_WORK = ("packs", "heartbeats")  # of a sweep that is not finished

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, epilog=EXAMPLES)


@app.callback()
def _archive() -> None:
    """Moves a sweep: packs it into one file, and unpacks that into another home."""


@app.command()
def pack(
    sweep: Sweep,
    home: Home = Path("runs"),
    to: Annotated[Path | None, typer.Option("--to", help="the file", show_default="SWEEP.zip")] = None,
) -> None:
    """Packs a sweep, finished or not, into one file."""
    folder, console = find_sweep(sweep, home), console_here()
    file = to or Path(f"{folder.name}.zip")
    with only_one(folder):
        size = write_parcel(file, folder.name, _contents(folder))
    say(console, f"{folder.name} is in {file} ({size:,} bytes)")
    say(console, f"unpack         python trackers/archive.py unpack {shlex.quote(str(file))} --home HOME")


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="what pack made")],
    home: Home = Path("runs"),
) -> None:
    """Merges a packed sweep into a home; as often as you like."""
    from trackers.repeat import publish_command

    console = console_here()
    with open_parcel(file) as parcel, only_one(home / parcel.sweep):
        outcome = _merge(parcel, home)
    say(console, f"{home / parcel.sweep}: {outcome}")
    say(console, f"publish        {publish_command(parcel.sweep, home)}")


def _contents(folder: Path) -> dict[str, Path | bytes]:
    """What a sweep is: its two files, log and study, what trials left, and the checkpoints it would go on from."""
    record = load(folder)
    if not record.first:
        raise UserError(f"the journal of {folder} is empty: there is nothing to pack.")
    read_manifest(folder / MANIFEST)
    roots = [folder / name for name in _FOLDERS]
    checkpoints = [left.checkpoint for left in record.unfinished if left.checkpoint is not None]
    roots += [folder / name for name in checkpoints if is_place(name)]  # those in a storage elsewhere stay there
    paths = [path for root in roots for path in sorted(root.rglob("*"))] + [folder / name for name in _ALWAYS]
    kept = [path for path in paths if path.is_file() and not path.is_symlink() and not path.name.startswith(".")]
    return {**{path.relative_to(folder).as_posix(): path for path in kept}, JOURNAL: _journal(folder)}


def _journal(folder: Path) -> bytes:
    """The journal's whole lines; none where there is no journal."""
    path = folder / JOURNAL
    data = path.read_bytes() if path.is_file() else b""
    return data[: data.rfind(b"\n") + 1]


def _merge(parcel: Parcel, home: Path) -> str:
    """Puts a sweep into a home whose lock for it is held; says what was done."""
    free = shutil.disk_usage(home).free - MARGIN
    if parcel.bytes > free:
        raise UserError(f"{parcel.path} holds {parcel.bytes:,} bytes, and {home} has room for {max(free, 0):,}.")
    target = home / parcel.sweep
    if {path.name for path in target.iterdir()} - {LOCK, _SCRATCH} and not is_sweep(target):
        raise UserError(f"{target} is there already and is no sweep.")
    new = target / _SCRATCH
    try:
        shutil.rmtree(new, ignore_errors=True)  # of a call that was killed
        parcel.extract(new)
        _check(new, parcel)
        return _settle(new, target, parcel)
    except OSError as error:
        raise UserError(f"{parcel.path} could not be unpacked to {target}: {error.strerror or error}.") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check(new: Path, parcel: Parcel) -> None:
    """Sees that what came is a sweep that can be read."""
    if not {MANIFEST, JOURNAL} <= parcel.files.keys() or LOCK in parcel.files:
        raise UserError(f"{parcel.path} holds no sweep.")
    try:
        read_manifest(new / MANIFEST)
        whole = bool(load(new).first) and _journal(new) == (new / JOURNAL).read_bytes()
    except UserError as error:
        raise UserError(f"{parcel.path} holds no sweep that can be used: {str(error).replace(f'{new}/', '')}") from None
    if not whole:
        raise UserError(f"{parcel.path} holds no sweep that can be used: its journal is empty or torn.")


def _settle(new: Path, target: Path, parcel: Parcel) -> str:
    """Of two journals of one sweep the longer stays."""
    here, came = _journal(target), _journal(new)
    if not here:
        _move(new, target, parcel)
        return f"unpacked, {len(parcel.files)} files"
    if here == came:
        missing = [name for name in parcel.files if not (target / name).exists()]
        for name in missing:
            _place(new / name, target / name)
        return f"it was here already; {len(missing)} missing files were added" if missing else "it was here already"
    if here.startswith(came):
        return "it has gone further here, and was left as it is"
    if not came.startswith(here):
        load(target)  # if it is damaged, that is what is to be said
        same = here.splitlines()[0] == came.splitlines()[0]
        why = "it has gone on in both places" if same else "that is another sweep of the same name"
        raise UserError(f"{parcel.path} cannot be merged into {target}: {why}.")
    _move(new, target, parcel)
    for path in (p for name in _WORK for p in (target / name).rglob("*") if p.is_file()):
        if path.relative_to(target).as_posix() not in parcel.files:
            path.unlink()  # checkpoints that nothing goes on from any more
    return f"replaced, since it has gone further in {parcel.path}; {len(parcel.files)} files"


def _move(new: Path, target: Path, parcel: Parcel) -> None:
    """The manifest first, the journal last: what is broken off in between is known as half a sweep and can be unpacked again."""
    others = [name for name in parcel.files if name not in (MANIFEST, JOURNAL)]
    for name in (MANIFEST, *others, JOURNAL):
        _place(new / name, target / name)


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(source, target)


def main(words: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    return run(app, words)


if __name__ == "__main__":
    sys.exit(main())
