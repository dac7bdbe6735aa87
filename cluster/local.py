"""``launch.py local``: a sweep on several Ray nodes of this machine, all on loopback, behind a token of their own."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from clcore.errors import BadValue
from cluster.nodes import Nodes, Shape
from cluster.supervise import SOON, Signals, Stopped, driver_command, signals, supervise
from cluster.words import Retries, Words, check_room, check_sweep, read_words
from trackers.command import console_here, say, typed_command


def local(
    words: Words = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="nodes that run trials; the head runs none")] = 2,
    cpus_per_node: Annotated[int, typer.Option("--cpus-per-node", min=1, help="cores of each")] = 1,
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", min=0, help="GPUs of each, no two of them sharing one")] = 0,
    retries: Retries = 3,
) -> None:
    """Runs a sweep on several Ray nodes of this machine; a lost driver, node or head is started again."""
    settings = read_words(words)
    check_room(settings, cpus_per_node, gpus_per_node)
    _check_gpus(nodes, gpus_per_node)
    check_sweep(settings)
    try:
        raise typer.Exit(run_on_nodes([*(words or ())], Shape(nodes, cpus_per_node, gpus_per_node), retries))
    except Stopped as stopped:
        raise typer.Exit(stopped.code) from None


def run_on_nodes(words: list[str], shape: Shape, retries: int) -> int:
    """Starts the nodes, runs the sweep on them, and ends them; returns the sweep's exit code.

    Raises:
        Stopped: by a signal, before the sweep had begun.
        UserError: a node does not come up.
    """
    with signals() as caught, tempfile.TemporaryDirectory(prefix="cl-", ignore_cleanup_errors=True) as folder:
        cluster = Nodes(Path(folder), shape, caught.check)
        try:
            return _Run(cluster, words, retries, caught).run()
        finally:
            cluster.end()


class _Run:
    """One sweep on nodes of ours."""

    def __init__(self, cluster: Nodes, words: list[str], retries: int, caught: Signals) -> None:
        self.cluster, self.words, self.retries, self.caught = cluster, words, retries, caught
        self.console = console_here()
        self.nodes_left = retries

    def run(self) -> int:
        """The exit code."""
        return supervise(self._begin, self.retries, self.caught, self._say, self._fallen, SOON)

    def _begin(self) -> tuple[list[str], Mapping[str, str]]:
        if self.cluster.head is None:
            self.cluster.start()
        else:
            self._mend()
        shape = self.cluster.shape
        gpus = f", {shape.gpus} GPUs" if shape.gpus else ""
        self._say(f"{shape.nodes} Ray nodes of {shape.cpus} CPUs{gpus} at {self.cluster.address}")
        return driver_command([*self.words, "--address", self.cluster.address], typed_command()), self.cluster.environment

    def _fallen(self) -> bool:
        """Whether the head is lost; lost nodes are started again meanwhile, as often as drivers are."""
        assert self.cluster.head is not None
        if self.cluster.head.lost:
            return True
        if self.nodes_left > 0 and any(node.lost for node in self.cluster.workers.values()):
            self.nodes_left -= 1
            self._mend()
        return False

    def _mend(self) -> None:
        for lost in self.cluster.mend():
            self._say(f"{lost} was lost: it is started again")

    def _say(self, line: str) -> None:
        say(self.console, line)


def _check_gpus(nodes: int, each: int) -> None:
    if each == 0:
        return
    import torch

    if nodes * each > (here := torch.cuda.device_count()):
        raise BadValue("--gpus-per-node", each, f"at most {here // nodes} with --nodes {nodes}: this machine has {here} GPUs")
