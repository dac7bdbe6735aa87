"""Several Ray nodes on this machine, all on loopback: a head that runs no trials, and nodes with raylets of their own.

Two of Ray's habits are worked around. It replaces 127.0.0.1 by the machine's own address, and listens on all interfaces then: the
head is told not to (``LOOPBACK``), and the other nodes are given the address as ``LOCALHOST``, in which Ray does not see it. And
``ray stop`` ends every Ray of the machine: here a node is a session of processes, and that session is ended.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clcore.errors import UserError
from cluster import children
from cluster.auth import new_token, token_environment
from sweeps.ray_variables import ENVIRONMENT, LOOPBACK

NO_CLIENT = {"RAY_START_HOOK": "cluster.no_client.no_client_server"}
WORKER = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}  # elsewhere than on Linux Ray wants to be asked
#: Bytes of each node's object store; checkpoints go by files, so next to nothing is in it.
OBJECT_STORE = 100 * 1024**2
COMMON = (
    "--block", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0",
    "--include-log-monitor=false", "--log-color=false", f"--object-store-memory={OBJECT_STORE}",
)  # fmt: skip
#: Ray writes the cluster's address into this file of a node's folder once the node is up.
ADDRESS = "ray_current_cluster"
#: Seconds that nodes may take to come up, and how many of them are started again when they end before.
PATIENCE, AGAIN = 180.0, 3
HEAD = -1


@dataclass(frozen=True)
class Shape:
    """What the nodes are.

    Attributes:
        nodes: how many, the head aside.
        cpus: of each.
        gpus: of each; the first node has the machine's first ones.
    """

    nodes: int
    cpus: int
    gpus: int = 0


@dataclass
class Node:
    """A Ray node: the leader of its session, and its folder."""

    process: "subprocess.Popen[bytes]"
    folder: Path

    @property
    def lost(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    @property
    def up(self) -> bool:
        """Whether it has joined its cluster."""
        address = self.folder / ADDRESS
        return address.is_file() and address.stat().st_size > 0

    @property
    def last_words(self) -> str:
        """The last line that it wrote."""
        said = (self.folder / "said.txt").read_text(errors="replace").strip().splitlines()
        return said[-1] if said else "it said nothing"


@dataclass
class Nodes:
    """A cluster on loopback.

    Args:
        folder: a short path of our own, which Ray's sockets are in; its owner alone can enter it.
        shape: what the nodes are.
        check: called now and then while nodes are waited for; raises where they should not be.
        dashboard: the port of a dashboard (with the job server) on loopback, which needs ``ray[default]``; None: none.
    """

    folder: Path
    shape: Shape
    check: Callable[[], None] = lambda: None
    dashboard: int | None = None
    head: Node | None = None
    workers: dict[int, Node] = field(default_factory=dict)
    _made: int = 0

    def __post_init__(self) -> None:
        self.folder.chmod(0o700)
        self.token = new_token(self.folder / "token")

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a driver on this cluster needs."""
        return {**ENVIRONMENT, **token_environment(self.token), **LOOPBACK}

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT`` of the head."""
        assert self.head is not None
        return f"127.0.0.1:{self.port}"

    @property
    def port(self) -> str:
        """The head's."""
        assert self.head is not None
        return (self.head.folder / ADDRESS).read_text().rpartition(":")[2]

    def start(self) -> None:
        """Starts the head, then all nodes.

        Raises:
            UserError: a node does not come up.
        """
        self._begin(HEAD)
        self._wait([HEAD])
        for place in range(self.shape.nodes):
            self.add(place)
        self._wait([*self.workers])

    def add(self, place: int) -> None:
        """Starts a node, and does not wait for it.

        Args:
            place: which; a node that was there has been lost.
        """
        gpus = range(place * self.shape.gpus, (place + 1) * self.shape.gpus)
        seen = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        words = [f"--address=LOCALHOST:{self.port}", f"--num-cpus={self.shape.cpus}", f"--num-gpus={self.shape.gpus}"]
        self.workers[place] = self._node(words, {**WORKER, **seen})

    def mend(self) -> list[str]:
        """Starts again what was lost: a lost node alone, with a lost head everything.

        Returns:
            What was lost, in words.
        """
        if self.head is None or self.head.lost:
            self.end()
            self.start()
            return ["the head"]
        lost = [place for place, node in self.workers.items() if node.lost]
        for place in lost:
            children.kill(self.workers[place].process)
            self.add(place)
        return [f"node {place + 1}" for place in lost]

    def end(self) -> None:
        """Ends every node; the head last, since nodes that miss it complain."""
        nodes = [*self.workers.values(), *([self.head] if self.head else [])]
        for node in nodes:
            children.kill(node.process)
        self.head, self.workers = None, {}

    def _node(self, words: list[str], environment: Mapping[str, str]) -> Node:
        self._made += 1
        folder = self.folder / str(self._made)
        folder.mkdir()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, f"--temp-dir={folder}", *COMMON]
        whole = {**ENVIRONMENT, **token_environment(self.token), **environment}
        return Node(children.start(command, whole, folder / "said.txt"), folder)

    def _begin(self, place: int) -> None:
        if place != HEAD:
            self.add(place)
            return
        words = ["--head", "--port=0", "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false"]
        if self.dashboard is not None:
            words[-1:] = ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"]
        self.head = self._node(words, {**LOOPBACK, **NO_CLIENT})

    def _wait(self, places: list[int]) -> None:
        """Waits until nodes are up; one that does not make it on a busy machine is started again."""
        end, left = time.monotonic() + PATIENCE, AGAIN
        while not all(self._at(place).up for place in places):
            self.check()
            for place in (place for place in {HEAD, *places} if self._at(place).lost):
                if not left or (place == HEAD and places != [HEAD]):  # nothing joins a head that is gone
                    raise UserError(f"a Ray node did not come up on this machine: {self._at(place).last_words}")
                children.kill(self._at(place).process)
                self._begin(place)
                left -= 1
            if time.monotonic() > end:
                raise UserError(f"the Ray nodes did not come up on this machine in {PATIENCE:.0f} s")
            time.sleep(0.05)

    def _at(self, place: int) -> Node:
        found = self.head if place == HEAD else self.workers[place]
        assert found is not None
        return found
