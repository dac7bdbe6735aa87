"""The command of studies in this process, over one home, on sweeps of a moment."""

import shlex

from sweeps import study

#: Small sweeps whose cells end differently after a moment of training.
SMALL = "--benchmark split-digits --network mlp:16 --tasks 2 --set epochs=2 --set lr=0.5 --executor inline --pack 2"


class Studies:
    """The command in this process, over one home."""

    def __init__(self, home, capsys):
        self.home, self.capsys = home, capsys

    def __call__(self, words, *more, small=SMALL):
        """Runs it; returns the exit code and what was printed."""
        self.capsys.readouterr()
        code = study.main([*shlex.split(words), *shlex.split(small), *map(str, more), "--home", str(self.home)])
        return code, self.capsys.readouterr().out

    @property
    def reports(self):
        """Learned tasks that the journals of the home hold, with the sweep that learned them."""
        return sorted(
            (path.parent.name, line.split(b'"event"')[1]) for path in self.home.glob("*/journal.jsonl")
            for line in path.read_bytes().splitlines() if b'"event":"task"' in line
        )  # fmt: skip

    def folder(self, kind):
        (found,) = (self.home / "studies").glob(f"{kind}-*")
        return found
