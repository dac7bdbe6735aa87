"""Small sweeps for the tests of ``sweeps/``: calls of the command line in this process and in one of their own."""

import contextlib
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps.run import main
from trackers.artifacts import read_matrix
from trackers.journal import read
from trackers.record import SweepRecord, load

ROOT = Path(__file__).resolve().parent.parent
RUN = str(ROOT / "sweeps" / "run.py")
#: A HAT sweep whose cells end differently after a moment of training.
TINY = shlex.split("--benchmark split-digits --tasks 2 --network mlp:16 --set epochs=2 --set lr=0.5 --executor inline")
HAT = ["--method", "hat", *TINY]
#: A TFM sweep of several packs: its cells, in ``tfm.toml``, and the words that every such sweep has.
TFM_CELLS = "[values]\np1 = [0.3, 0.6, 0.9]\ngrowth = [0.05, 0.1]\n"
TFM = shlex.split("--method tfm --space tfm.toml --network mlp:16 --set lr=0.2 --pack 2 --references")
CELLS = 'search = "grid"\n[values]\nc = [0.1, 1.0]\nsmax = [10, 20]\n'


@dataclass(frozen=True)
class Result:
    """What a call of the command came to."""

    code: int
    out: str
    err: str

    @property
    def is_refusal(self) -> bool:
        """Exit code 2 and one line that begins as ours do."""
        return self.code == 2 and self.err.startswith("clsweep: ") and self.err.count("\n") == 1 and not self.out

    @property
    def ledger(self) -> dict[str, int]:
        """The closing line, read by a person's eye: the number in front of each word."""
        line = next(line for line in self.out.splitlines() if "trials asked =" in line)
        return {word: int(number) for number, word in re.findall(r"(\d+) (trials|done|skipped|failed|open|reference)", line)}

    def command(self, label: str) -> list[str]:
        """The words of a printed command, e.g. after ``repeat best``."""
        line = next(line for line in self.out.splitlines() if line.startswith(label))
        return shlex.split(line.removeprefix(label))


def start(*words, cwd, **environment) -> subprocess.Popen:
    """``python sweeps/run.py`` in a process (and a process group) of its own."""
    return subprocess.Popen(
        [sys.executable, RUN, *map(str, words)], cwd=cwd, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def outcome(process: subprocess.Popen, timeout=200) -> Result:
    out, err = process.communicate(timeout=timeout)
    return Result(process.returncode, out, err)


def in_process(words, monkeypatch, capsys) -> Result:
    """The same command line without a process of its own."""
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    capsys.readouterr()
    code = main()
    said = capsys.readouterr()
    return Result(code, said.out, said.err)


class Silent:
    """In the place of ``capsys`` where a fixture of a whole module has none."""

    out = err = ""

    def readouterr(self):
        return self


@contextlib.contextmanager
def own_logs():
    """A sweep run in this process adds its log file to our loggers; here, they are taken off again."""
    before = {name: list(logging.getLogger(name).handlers) for name in ("sweeps", "trackers", "clcore")}
    yield
    for name, handlers in before.items():
        logging.getLogger(name).handlers = handlers


def folder_with(tmp_path_factory, name: str, **files: str) -> Path:
    """A new folder with space files: their names without ``.toml``, and what is in them."""
    folder = tmp_path_factory.mktemp(name)
    for stem, text in files.items():
        (folder / f"{stem}.toml").write_text(text)
    return folder


def only_folder(home: Path) -> Path:
    """The one sweep of a home."""
    (journal,) = home.glob("*/journal.jsonl")
    return journal.parent


def record_of(home: Path) -> SweepRecord:
    return load(only_folder(home))


def events(folder: Path, kind: str) -> list[dict]:
    return [event for event in read(folder / "journal.jsonl")[0] if event["event"] == kind]


def matrices(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Trial -> its accuracy matrices, from the files a sweep leaves."""
    return {path.parent.name: read_matrix(path) for path in sorted(folder.glob("trials/*/accuracy.parquet"))}


def same_matrices(first: Path, second: Path) -> bool:
    """Whether two sweeps hold the same trials with the same matrices, bit for bit, NaN equal to NaN."""
    one, other = matrices(first), matrices(second)
    return one.keys() == other.keys() and all(
        torch.equal(one[trial][split].nan_to_num(-1), other[trial][split].nan_to_num(-1))
        for trial in one
        for split in ("validation", "test")
    )


def stored(path):
    """The trials of a study, read with Optuna itself."""
    return optuna.load_study(study_name="sweep", storage=JournalStorage(JournalFileBackend(str(path)))).trials


def leaderboard_rows(folder: Path) -> list[dict]:
    return pq.read_table(folder / "report" / "leaderboard.parquet").to_pylist()


def rows_are_unique(folder: Path) -> bool:
    """Whether every trial of a sweep is done once and reported once after each task."""
    rows = [(member["trial"], event["seen"]) for event in events(folder, "task") for member in event["members"]]
    done = [event["trial"] for event in events(folder, "done")]
    return len(rows) == len(set(rows)) and len(done) == len(set(done))


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, and every folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"folder" for p in sorted(folder.rglob("*"))}


def wait_for(happened, seconds=120.0, process=None) -> None:
    """Waits until something is so; fails when it does not become so, or when the process that should make it so has ended."""
    end = time.monotonic() + seconds
    while not happened():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


def reports(home: Path) -> int:
    """How many reports of learned tasks the journals of a home hold by now."""
    return sum(
        path.read_bytes().count(b'"event":"task"') - path.read_bytes().count(b'"seen":0,') for path in home.glob("*/journal.jsonl")
    )


def in_the_middle(home: Path) -> bool:
    """Whether a pack of several has learned a task, and two are still to come."""
    if not (journals := [*home.glob("*/journal.jsonl")]):
        return False
    record = load(journals[0].parent)
    return any(len(pack.trials) > 1 and 1 <= pack.seen <= record.tasks - 2 for pack in record.packs.values())


def descendants(pid: int) -> dict[int, str]:
    """Processes below one, with what they call themselves (of any of /proc, where a process may come and go)."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat, names[int(entry.name)] = (
                    (entry / "stat").read_text(),
                    (entry / "cmdline").read_bytes().decode(errors="replace"),
                )
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found, above = {}, {pid}
    while above := {child for child, parent in parents.items() if parent in above}:
        found |= {child: names[child] for child in above}
    return found


@contextlib.contextmanager
def nothing_stays(seconds: float = 120.0):
    """A set for processes that Ray may leave behind, which end by themselves when their driver is gone, and their temporary folder.

    Both are empty at the end, or it fails; it leaves none of them in any case.
    """
    found, temporary = set(), tempfile.mkdtemp(prefix="cs-", dir="/tmp")  # short: Ray's sockets are in it
    try:
        yield found, temporary
        wait_for(lambda: not any(map(alive, found)), seconds)
    finally:
        for pid in filter(alive, found):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and not yet fetched does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
