"""What our Ray nodes are started with; nothing is started here."""

from types import SimpleNamespace

import pytest
from ray._common.utils import load_class

from clcore.errors import UserError
from cluster import children, nodes
from cluster.nodes import NO_CLIENT, Nodes, Shape


class Process:
    """A process that runs until it is said to have ended."""

    pid, returncode = 0, None

    def poll(self):
        return self.returncode


@pytest.fixture
def started(monkeypatch):
    """The commands and variables of everything that would have been started; each is up at once."""
    calls = []

    def start(words, environment, output):
        (folder,) = (word.partition("=")[2] for word in words if word.startswith("--temp-dir="))
        (output.parent / nodes.ADDRESS).write_text("127.0.0.1:4567")
        assert str(output.parent) == folder
        calls.append((words[words.index("start") + 1 :], environment))
        return Process()

    monkeypatch.setattr(children, "start", start)
    monkeypatch.setattr(children, "kill", lambda process: None)
    return calls


def test_the_head_runs_no_trials_and_the_nodes_share_nothing(started, tmp_path):
    made = Nodes(tmp_path, Shape(nodes=2, cpus=3, gpus=2))
    made.start()
    assert made.address == "127.0.0.1:4567"
    (head, around), *others = started
    assert {"--head", "--port=0", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"} <= {*head}
    assert around["RAY_START_HOOK"] == NO_CLIENT["RAY_START_HOOK"]
    for words, _ in others:
        assert {"--address=LOCALHOST:4567", "--num-cpus=3", "--num-gpus=2"} <= {*words}
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in others] == ["0,1", "2,3"]
    token = (tmp_path / "token").read_text()
    for words, environment in started:
        assert "--block" in words
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
        assert token not in str((words, environment))
    assert len({word for words, _ in started for word in words if word.startswith("--temp-dir=")}) == 3


def test_a_dashboard_is_on_loopback(started, tmp_path):
    Nodes(tmp_path, Shape(1, 1), dashboard=8299).start()
    assert {"--include-dashboard=true", "--dashboard-host=127.0.0.1", "--dashboard-port=8299"} <= {*started[0][0]}


def test_what_is_lost_is_started_again(started, tmp_path):
    made = Nodes(tmp_path, Shape(2, 1))
    made.start()
    assert made.mend() == []
    made.workers[1].process.returncode = 1
    assert made.mend() == ["node 2"]
    assert len(started) == 4
    made.head.process.returncode = -9
    assert made.mend() == ["the head"]
    assert [("--head" in words) for words, _ in started] == [True, False, False, False, True, False, False]


def test_a_node_that_never_comes_up_is_given_up(started, tmp_path, monkeypatch):
    def never(words, environment, output):
        output.write_text("one line\nno room for a node\n")
        process = Process()
        process.returncode = 1
        started.append(words)
        return process

    monkeypatch.setattr(children, "start", never)
    with pytest.raises(UserError, match="no room for a node"):
        Nodes(tmp_path, Shape(1, 1)).start()
    assert len(started) == 1 + nodes.AGAIN


def test_rays_client_finds_nothing_to_speak_to():
    """The hook as Ray looks it up and calls it."""
    hook = load_class(NO_CLIENT["RAY_START_HOOK"])
    for head, port in ((True, None), (False, 10001)):
        parameters = SimpleNamespace(ray_client_server_port=10001)
        hook(parameters, head)
        assert parameters.ray_client_server_port == port
