"""Processes that are started, watched, started again and ended; here they are small ones."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sweep_kit import ROOT, alive, descendants, wait_for

from cluster import children, supervise
from cluster.driven import BROKEN
from cluster.supervise import Signals, Stopped


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(supervise, "STEP", 0.01)


def python(code):
    return [sys.executable, "-S", "-c", code]


def run(codes, retries=3, fallen=lambda: False):
    """Drivers that end with these codes, one after the other; how it ended, how many there were, and what was said."""
    left, said = iter(codes), []
    started = []

    def begin():
        code = next(left)
        started.append(code)
        kill = f"import os; os.kill(os.getpid(), {-code})" if code < 0 else f"raise SystemExit({code})"
        return python(kill), {}

    return supervise.supervise(begin, retries, Signals(), said.append, fallen, 0.0), len(started), said


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130, 143])
def test_a_drivers_own_word_is_final(code):
    assert run([code]) == (code, 1, [])


def test_a_lost_driver_is_started_again():
    code, drivers, said = run([-signal.SIGKILL, -signal.SIGABRT, BROKEN, 0])
    assert (code, drivers) == (0, 4)
    assert [line.partition(":")[0] for line in said] == [
        "the driver was lost (SIGKILL)", "the driver was lost (SIGABRT)", "the driver was lost (its own fault, see above)",
    ]  # fmt: skip


def test_not_for_ever():
    code, drivers, said = run([15] * 9, retries=2)
    assert (code, drivers) == (BROKEN, 3)
    assert "exit code 15" in said[0]
    assert said[0].endswith("(1 of 2)")
    assert "not started again" in said[2]
    assert run([-9], retries=0)[:2] == (BROKEN, 1)


def test_a_cluster_that_is_not_ready_again_is_tried_once_more():
    """A wrong call is final at first; later it can only be the cluster."""
    assert run([-9, 2, 0])[:2] == (0, 3)


def test_a_pause_ends_with_a_signal():
    """Nothing is started after a signal that came between two drivers."""
    begun, caught = [], Signals()

    def begin():
        begun.append(True)
        return python("import os; os.kill(os.getpid(), 9)"), {}

    with pytest.raises(Stopped):
        supervise.supervise(begin, 3, caught, lambda line: caught(signal.SIGINT, None), pause=60.0)
    assert len(begun) == 1


def test_a_driver_without_its_cluster_is_killed():
    looks = iter([False, True])
    begun = iter([python("import time; time.sleep(60)"), python("pass")])
    ended = supervise.supervise(lambda: (next(begun), {}), 1, Signals(), lambda line: None, lambda: next(looks, False), 0.0)
    assert ended == 0


def test_signals_are_handed_on():
    wait = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print(flush=True); time.sleep(60)"
    with supervise.signals() as caught:

        def when_up():
            wait_for(lambda: caught.driver is not None and Path(f"/proc/{caught.driver.pid}/status").exists(), 30)
            wait_for(lambda: _catches(caught.driver.pid), 30)
            os.kill(os.getpid(), signal.SIGTERM)

        sender = threading.Thread(target=when_up)
        sender.start()
        assert supervise.supervise(lambda: (python(wait), {}), 3, caught, lambda line: None) == 143
        sender.join()
        with pytest.raises(Stopped) as stopped:
            caught.check()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def _catches(pid):
    """Whether a process has a handler for SIGTERM (of any of Linux)."""
    line = next(row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))


GRANDCHILD = "import os, subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', 'import os, time; os.setpgid(0, 0); time.sleep(60)']); time.sleep(60)"  # noqa: E501


@pytest.mark.parametrize("how", [children.kill, children.end])
def test_all_of_a_session_is_ended(how):
    process = children.start(python(GRANDCHILD), {})
    wait_for(lambda: len(descendants(process.pid)) == 1, 30)
    (below,) = descendants(process.pid)
    wait_for(lambda: os.getpgid(below) == below, 30)
    how(process)
    assert process.returncode < 0
    wait_for(lambda: not alive(below), 30)
    assert os.getsid(0) != process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel does not tell")
def test_what_we_start_ends_with_us():
    code = "from cluster import children; import time; print(children.start(['sleep', '60'], {}).pid, flush=True); time.sleep(60)"
    starter = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    pid = int(starter.stdout.readline())
    assert alive(pid)
    starter.kill()
    starter.communicate()
    wait_for(lambda: not alive(pid), 30)
