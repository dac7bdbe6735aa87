import errno
import json
import math
import os
import subprocess
import sys
import threading

import pytest

from clcore.errors import UserError
from trackers.journal import Journal, read


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sweep" / "journal.jsonl"


def test_what_is_written_is_read(path):
    journal = Journal(path)
    first = journal.append("start", pack="p0", attempt=1)
    second = journal.append("stop", sync=True, reason="interrupted", detail=None)
    assert read(path)[0] == [first, second]
    assert [first["n"], second["n"]] == [0, 1]


def test_reading_goes_on_where_it_ended(path):
    journal = Journal(path)
    journal.append("a")
    events, offset = read(path)
    assert read(path, offset) == ([], offset)
    journal.append("b")
    assert [e["event"] for e in read(path, offset)[0]] == ["b"]
    assert [e["event"] for e in events] == ["a"]


def test_reopening_continues_the_numbers(path):
    first = Journal(path)
    first.append("a")
    first.close()
    assert Journal(path).append("b")["n"] == 1


def test_torn_last_line_is_ignored_and_cut_off(path):
    journal = Journal(path)
    journal.append("a")
    journal.append("b")
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"n": 2, "time": 1.0, "ev')
    assert len(read(path)[0]) == 2
    Journal(path).append("c")
    assert [(e["n"], e["event"]) for e in read(path)[0]] == [(0, "a"), (1, "b"), (2, "c")]


@pytest.mark.parametrize("damage", [b'{"n": 1, "ti\n', b"\x00\x00\n", b"[1]\n", b'{"n": 1}\n', b"\xff\n"])
def test_damaged_line_in_the_middle_names_file_and_line(path, damage):
    journal = Journal(path)
    journal.append("a")
    _, offset = read(path)
    with path.open("ab") as file:
        file.write(damage + b'{"n": 2, "time": 1.0, "event": "c"}\n')
    for start in (0, offset):
        with pytest.raises(UserError, match=r"journal\.jsonl, line 2 is damaged"):
            read(path, start)
    with pytest.raises(UserError, match="line 2"):
        Journal(path)


def test_not_finite_is_null_and_json_is_strict(path):
    Journal(path).append("task", values=[math.nan, 0.5, (math.inf, {"x": -math.inf})])
    line = path.read_text()
    assert json.loads(line, parse_constant=pytest.fail)["values"] == [None, 0.5, [None, {"x": None}]]


def test_full_disk_surfaces_and_leaves_no_torn_line(path, monkeypatch):
    journal = Journal(path)
    journal.append("a")
    real = os.pwrite
    calls = []

    def fills_up(file, data, at):
        calls.append(at)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data[:10], at)

    monkeypatch.setattr(os, "pwrite", fills_up)
    with pytest.raises(OSError, match="No space"):
        journal.append("b")
    monkeypatch.setattr(os, "pwrite", real)
    journal.append("c")
    assert [(e["n"], e["event"]) for e in read(path)[0]] == [(0, "a"), (1, "c")]


def test_threads_do_not_mix_lines(path):
    journal = Journal(path)
    threads = [threading.Thread(target=lambda: [journal.append("x", text="y" * 500) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e["n"] for e in read(path)[0]] == list(range(200))


def test_missing_journal_is_a_users_error(path):
    with pytest.raises(UserError, match="there is no journal"):
        read(path)


def test_workers_get_no_mlflow_and_no_matplotlib():
    code = (
        "import sys, trackers, trackers.journal, trackers.artifacts, trackers.record, trackers.pictures, trackers.read,"
        "trackers.check; print([m for m in ('mlflow', 'matplotlib', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
