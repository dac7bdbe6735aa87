"""Workers, nodes, the head and the driver of a cluster are killed, cut off and added: the sweep ends as if nothing had been."""

import contextlib
import importlib
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from launch_kit import IMPATIENT, drivers_below, leaders, open_to_others, packs_below, python_path, session, start_launch, strike
from sweep_kit import (
    ROOT,
    alive,
    descendants,
    events,
    in_the_middle,
    only_folder,
    outcome,
    record_of,
    rows_are_unique,
    same_matrices,
    start,
    wait_for,
)  # fmt: skip

from cluster.nodes import Nodes, Shape

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

GRID = "[values]\np1 = [0.3, 0.6, 0.9]\ngrowth = [0.05, 0.1]\n"
#: A method of the user's own, in the folder where the sweep is started.
MINE = "from clcore.methods.tfm import TFM\n\n\nclass Mine(TFM):\n    pass\n\n\nMETHOD = Mine\n"
#: Three packs of two that take some seconds each.
TFM = shlex.split("--method mine.py --space tfm.toml --tasks 4 --network mlp:16 --set epochs=40 --set lr=0.2 --pack 2")
#: The same, for half a minute: long enough to be left, asked after and followed again.
SLOW = [*TFM, "--set", "protocol=fixed", "--set", "epochs=1000"]
LEFT = {"journal.jsonl", "lock", "log.txt", "report", "sweep.json", "trials"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("nodes")
    (made / "tfm.toml").write_text(GRID)
    (made / "mine.py").write_text(MINE)
    return made


def in_one_process(folder, words, home):
    """The same packs in one process."""
    said = outcome(start(*words, "--executor", "inline", "--home", home, cwd=folder))
    assert said.code == 0, said.err
    return only_folder(folder / home)


@pytest.fixture(scope="module")
def undisturbed(folder):
    return in_one_process(folder, TFM, "undisturbed")


@pytest.fixture
def launch(folder):
    """Starts ``cluster/launch.py``; afterwards nothing that it started runs, and no file of it is left."""
    temporary = tempfile.mkdtemp(prefix="cs-", dir="/tmp")  # short: Ray's sockets are in it
    started, below = [], {}

    def go(*words, **environment):
        started.append(start_launch(*words, cwd=folder, TMPDIR=temporary, **environment))
        return started[-1]

    def see(process):
        below.update(found := descendants(process.pid))
        return found

    go.see, go.temporary = see, Path(temporary)
    yield go
    for process in started:
        see(process)
        if process.poll() is None:
            process.kill()
        process.communicate()
    try:
        wait_for(lambda: not any(map(alive, below)), 60)
        assert list(Path(temporary).glob("cl-*")) == []  # what a killed driver leaves in its own folder nobody can take away
    finally:
        for pid in filter(alive, below):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


def check(home, undisturbed, said):
    """The end of a sweep that was disturbed: every trial is done once, with the numbers of the undisturbed one."""
    assert said.code == 0, said.out + said.err
    assert said.ledger["trials"] == 6 == said.ledger["done"] + said.ledger["skipped"]
    record, sweep = record_of(home), only_folder(home)
    assert [t.status for t in record.trials.values()] == ["done"] * 6
    assert rows_are_unique(sweep)
    assert {path.name for path in sweep.iterdir()} == LEFT
    assert sorted(len(e["trials"]) for e in events(sweep, "pack")) == [2, 2, 2]
    assert same_matrices(sweep, undisturbed)
    again = sum(event["seconds"] or 0.0 for event in events(sweep, "again"))
    repeated = again + sum(event.get("lost") or 0.0 for event in events(sweep, "start"))
    assert record.repeated == pytest.approx(repeated)
    assert (repeated > 0) == (attempts(home) > 1), "what was lost is known, and nothing else is taken for lost"
    assert (repeated > 0) == ("failed or repeated" in said.out)


def attempts(home):
    """Highest attempt of any pack, so far."""
    return max((event["attempt"] for event in events(only_folder(home), "start")), default=0)


def test_a_worker_and_a_node_are_killed_after_an_interruption(folder, launch, undisturbed):
    home = folder / "killed"
    words = ["local", "--nodes", "3", "--", *TFM, "--home", home]
    process = launch(*words)
    wait_for(lambda: in_the_middle(home), 300, process)
    below = launch.see(process)
    (token,) = launch.temporary.glob("cl-*/token")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert open_to_others(below) == set()
    secret = token.read_text()
    assert not any(secret in name for name in below.values())
    process.send_signal(signal.SIGINT)
    said = outcome(process, 120)
    assert said.code == 130, said.out + said.err
    wait_for(lambda: not any(map(alive, below)), 60)

    process = launch(*words)
    wait_for(lambda: packs_below(launch.see(process)) and attempts(home) >= 2, 300, process)
    before = attempts(home)
    os.kill(packs_below(launch.see(process))[0], signal.SIGKILL)
    wait_for(lambda: attempts(home) > before, 120, process)
    wait_for(lambda: packs_below(launch.see(process)), 120, process)
    below = launch.see(process)
    busy = os.getsid(packs_below(below)[0])
    assert busy in leaders(below, "--address")
    strike(busy)
    said = outcome(process, 300)
    check(home, undisturbed, said)
    assert "was lost: it is started again" in said.out
    written = [path.read_bytes() for path in only_folder(home).rglob("*") if path.is_file()]
    assert not any(secret.encode() in text for text in written)


def test_a_start_is_interrupted(launch):
    process = launch("local", "--", *TFM)
    wait_for(lambda: leaders(launch.see(process), "--head"), 120, process)
    process.send_signal(signal.SIGTERM)
    said = outcome(process, 60)
    assert (said.code, said.err) == (143, "")


def test_the_driver_and_the_head_are_killed(folder, launch, undisturbed):
    home = folder / "lost"
    process = launch("local", "--nodes", "2", "--", *TFM, "--home", home, "--workers", "3")
    wait_for(lambda: in_the_middle(home), 300, process)
    launch.see(process)
    (driver,) = drivers_below(process.pid)
    os.kill(driver, signal.SIGKILL)
    wait_for(lambda: attempts(home) >= 2, 300, process)
    (head,) = leaders(launch.see(process), "--head")
    strike(head)
    said = outcome(process, 400)
    check(home, undisturbed, said)
    assert said.out.count("the driver was lost (SIGKILL): it is started again") == 2
    assert "the head was lost: it is started again" in said.out
    assert len(events(only_folder(home), "sweep")) == 3


@pytest.fixture
def cluster(monkeypatch):
    """Starts nodes that are nobody's, in a folder that is nobody's."""
    for name, value in IMPATIENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", python_path())
    monkeypatch.chdir("/")

    @contextlib.contextmanager
    def start_nodes(shape, dashboard=None):
        with tempfile.TemporaryDirectory(prefix="cs-", dir="/tmp", ignore_cleanup_errors=True) as place:
            nodes = Nodes(Path(place), shape, dashboard=dashboard)
            try:
                nodes.start()
                yield nodes
            finally:
                nodes.end()

    return start_nodes


def test_a_node_is_cut_off_and_comes_back_after_another_has_joined(folder, launch, undisturbed, cluster):
    """The driver is attached to nodes that are started elsewhere, and which have neither its folder nor the user's file."""
    home = folder / "cut"
    with cluster(Shape(nodes=1, cpus=1)) as nodes:
        try:
            call = ["--token-file", nodes.token, "--ship", "--", *TFM, "--home", home, "--workers", "3"]
            process = launch("attach", nodes.address, *call)
            wait_for(lambda: in_the_middle(home), 300, process)
            nodes.add(1)
            wait_for(lambda: nodes.workers[1].up, 120, process)
            cut = nodes.workers[0].process.pid
            strike(cut, signal.SIGSTOP)
            wait_for(lambda: attempts(home) >= 2, 120, process)
            strike(cut, signal.SIGCONT)
            wait_for(lambda: nodes.workers[0].lost, 120)
            said = outcome(process, 300)
        finally:
            strike(nodes.workers[0].process.pid, signal.SIGCONT)
    check(home, undisturbed, said)
    assert len(events(only_folder(home), "sweep")) == 1, "the driver was never lost"


def test_a_cluster_that_cannot_be_joined_or_is_too_small(folder, launch, cluster, tmp_path):
    (tmp_path / "wrong").write_text("0" * 64)
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "sitecustomize.py").write_text("import ray\n\nray.__version__ = '2.59.0'\n")
    with cluster(Shape(nodes=2, cpus=1)) as nodes:
        call = ["attach", nodes.address, "--token-file"]
        sweep = ["--", *TFM, "--home", tmp_path / "home"]
        older = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "older"), python_path()])}
        calls = [
            ([*call, tmp_path / "wrong", *sweep], {}, "does not take the token that is sent"),
            ([*call[:-1], *sweep], {}, "does not take the token that is sent, or wants one"),
            ([*call, nodes.token, *sweep], older, "it runs Ray 2.60.0"),
            ([*call, nodes.token, "--ship", *sweep, "--cpus", "2"], {}, "with 1 CPUs, 0 GPUs"),
        ]
        for words, environment, message in calls:
            said = outcome(launch(*words, **environment), 120)
            assert said.code == 2, said.out + said.err
            assert message in said.err
            assert said.err.count("\n") == 1
            assert not (tmp_path / "home").exists()


@pytest.fixture
def others(tmp_path):
    """What is first on the path of a node that differs: other code of ours, and another torch by its name."""
    code, torch = tmp_path / "code", tmp_path / "torch"
    for room in ("clcore", "trackers", "sweeps", "cluster"):
        shutil.copytree(ROOT / room, code / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (code / "sweeps" / "driver.py").open("a") as file:
        file.write("# of another day\n")
    (torch / "torch-2.12.0.dist-info").mkdir(parents=True)
    (torch / "torch-2.12.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.12.0\n")
    return code, torch


def test_nodes_with_other_code_or_another_torch_are_named_and_nothing_is_started(launch, cluster, others, tmp_path, monkeypatch):
    with cluster(Shape(nodes=1, cpus=1)) as nodes:
        for place, first in enumerate(others, 1):
            with monkeypatch.context() as patch:
                patch.setenv("PYTHONPATH", os.pathsep.join([str(first), python_path()]))
                nodes.add(place)
        wait_for(lambda: nodes.workers[1].up and nodes.workers[2].up, 120)
        call = ["attach", nodes.address, "--token-file", nodes.token]
        code = r"Node 127\.0\.0\.1 \(\w{8}\): clsweep's code is \w{8} there, and \w{8} here\."
        torch = r"Node 127\.0\.0\.1 \(\w{8}\): torch is 2\.12\.0 there, and \S+ here\."
        begin = r"clsweep: the cluster is not ready\. "
        for more, wanted in (([], f"{begin}({code} {torch}|{torch} {code})\n"), (["--ship"], f"{begin}{torch}\n")):
            said = outcome(launch(*call, *more, "--", *TFM, "--home", tmp_path / "home"), 120)
            assert said.code == 2, said.out + said.err
            assert re.fullmatch(wanted, said.err), said.err
            assert not any(path.name == "journal.jsonl" for path in tmp_path.rglob("*"))


def has_job_server():
    """Whether what a head needs for jobs is installed here."""
    try:
        importlib.import_module("ray.dashboard.optional_deps")
    except ImportError:
        return False
    return True


@pytest.mark.skipif(not has_job_server(), reason="the job server is in ray[default]: pip install 'clsweep[cluster]'")
def test_a_sweep_as_a_job(folder, launch, cluster):
    home = folder / "job"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with cluster(Shape(nodes=2, cpus=1), port) as nodes:
        server = ["submit", f"http://127.0.0.1:{port}", "--token-file", nodes.token]
        call = [*server, "--python", sys.executable, "--ship", "--", *SLOW, "--home", home, "--workers", "3"]
        process = launch(*call)
        wait_for(lambda: in_the_middle(home), 300, process)
        assert open_to_others(pid for node in (nodes.head, *nodes.workers.values()) for pid in session(node.process.pid)) == set()
        process.send_signal(signal.SIGINT)
        said = outcome(process, 60)
        assert said.code == 130, said.out + said.err
        name = only_folder(home).name
        assert f"{name} goes on" in said.out
        said = outcome(launch(*server, "--status", name), 120)
        assert (said.code, said.out.partition(" (")[0]) == (0, f"{name}: running"), said.err
        assert outcome(launch(*call, "--set", "epochs=1001", "--name", name), 60).code == 2
        said = outcome(launch(*call), 300)
        check(home, in_one_process(folder, SLOW, "slow"), said)
        assert "runs already" in said.out
        said = outcome(launch(*server, "--logs", name), 120)
        assert said.ledger["done"] == 6
    assert len(events(only_folder(home), "sweep")) == 1
