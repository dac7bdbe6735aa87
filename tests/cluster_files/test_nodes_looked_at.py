"""The nodes of a cluster before a sweep: what is said of each, and real nodes that see the storage or do not."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest
from sweep_kit import ROOT

from clcore.errors import UserError
from sweeps.cluster_check import _answered, _told, _wrong, look_around

HERE = {"clsweep": "aaaa", "python": "3.11", "torch": "2.13.0", "ray": "2.60.0"}
WELL = {**HERE, "read": "said", "free": 10**10, "room": 10**10, "temporary": "/tmp", "host": "h"}
URI = "file:///shared"


def wrong(**differing):
    answer = {name: value for name, value in {**WELL, **differing}.items() if value != "absent"}
    return "; ".join(_wrong(URI, "said", answer, HERE, 10**9))


def test_a_node_that_is_well():
    assert wrong() == ""
    assert wrong(free=None) == "", "an object store does not tell"


@pytest.mark.parametrize(
    ("differing", "said"),
    [
        ({"torch": "2.12.0"}, "torch is 2.12.0 there, and 2.13.0 here"),
        ({"python": "3.12"}, "python is 3.12 there, and 3.11 here"),
        ({"clsweep": "bbbb"}, "clsweep's code is bbbb there, and aaaa here"),
        ({"clsweep": None}, "clsweep is not installed (install it there, or --ship the working tree)"),
        ({"torch": None}, "torch is not installed"),
        ({"unseen": True, "read": "absent", "free": "absent"}, "it does not see file:///shared: mount it"),
        ({"failed": "Permission denied", "free": "absent"}, "it cannot use file:///shared (Permission denied)"),
        ({"read": "other"}, "it reads something else"),
        ({"free": 5 * 2**20}, "file:///shared has 5 MB free there; 953 MB are needed"),
        ({"room": 2**20}, "/tmp has 1 MB free; 100 MB are needed"),
    ],
)
def test_what_is_said_of_a_node(differing, said):
    assert said in wrong(**differing)


def test_all_of_it_is_said():
    assert len(wrong(torch="2.12.0", ray="2.59.0", read="other").split("; ")) == 3


def test_a_node_that_could_not_be_asked():
    assert _wrong(URI, "said", ValueError("where\nOSError: no"), HERE, 1) == ["it could not be asked (OSError: no)"]


def test_a_node_that_was_just_lost_stops_no_sweep():
    """A sweep that goes on after the loss of a node starts while Ray still believes in that node."""
    assert _answered({"a": WELL, "b": None}) == {"a": WELL}
    with pytest.raises(UserError, match="None of its 2 nodes"):
        _answered({"a": None, "b": None})


def test_nodes_with_the_same_fault_are_named_together():
    names = [f"10.0.0.{i}" for i in range(12)]
    line = _told({**{name: ["x", "y"] for name in names}, "10.0.1.1": [], "10.0.1.2": ["z"]})
    first = ", ".join(names[:8])
    assert line == f"Nodes {first} and 4 more: x; y. Node 10.0.1.2: z."


@pytest.fixture
def sent(tmp_path):
    """The task as Ray sends it, run by a Python that has other packages of our names, or none."""
    import ray.cloudpickle

    (tmp_path / "task").write_bytes(ray.cloudpickle.dumps(look_around()))
    code = f"import sys, pickle; sys.path[:] = [p for p in sys.path if p and p != {str(ROOT)!r}]; "
    code += "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in str(f)]; sys.path.insert(0, sys.argv[1]); "
    code += "print(pickle.load(open(sys.argv[2], 'rb'))('', '', '')['clsweep'])"

    def run():
        words = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "task")]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_the_task_needs_nothing_of_ours_on_the_node(sent):
    assert sent() == "None"


def test_the_digest_is_of_the_code(sent, tmp_path):
    for room in ("clcore", "trackers", "sweeps"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    found = []
    for text in ("a = 1\n", "a = 2\n", "a = 1\n"):
        (tmp_path / "sweeps" / "x.py").write_text(text)
        found.append(sent())
    assert found[0] == found[2] != found[1]


#: Three nodes on loopback, one of which stands for a machine that does not share the storage: its home is another place.
CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
import ray
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, object_store_memory=80 * 2**20))
for _ in range(2):
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
ray.init(address=cluster.address, log_to_driver=False)
from clcore.errors import UserError
from sweeps import cluster_check
def said(*words):
    try:
        cluster_check.check_nodes(*words)
        return "well"
    except UserError as error:
        return str(error)
print(said(sys.argv[1]))
print(os.listdir(sys.argv[1]))
print(said(sys.argv[1], 10**18))
real = cluster_check.look_around
nodes = sorted(node["NodeID"][:8] for node in ray.nodes())
cluster_check.look_around = lambda: _bound(real(), nodes[0])
def _bound(look, name):
    def other(uri, said, own):
        return look(uri + "/not-mounted" if uri and own.endswith(name) else uri, said, own)
    return other
print(said(sys.argv[1]).count("Node"), nodes[0] in said(sys.argv[1]), "does not see" in said(sys.argv[1]))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_real_nodes(tmp_path):
    temporary = tempfile.mkdtemp(prefix="cn-", dir="/tmp")  # short: Ray's sockets are in it
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": temporary, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip
    words = [sys.executable, "-c", CLUSTER, str(tmp_path)]
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=500)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    well, left, full, one = done.stdout.splitlines()
    assert (well, left) == ("well", "[]"), done.stderr
    assert "MB free there" in full
    assert full.count("Nodes") == 1, "three nodes, one fault"
    assert one == "1 True True"
