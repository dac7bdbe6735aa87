"""The pilot of a cluster: measured on a node of each kind, and one size of packs for all of them.

A pack is planned before it is known where it runs, and may be gone on with on a node of another kind, so there is one size.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import torch

from clcore.errors import UserError
from clcore.trainer import EVAL_BATCH
from sweeps.each_node import ask_each
from sweeps.kinds import Group, Kind
from sweeps.pilot import VERSION, Pilot, chosen, keep, kept, measured
from sweeps.settings import digest
from sweeps.trials import Pack, Trial

log = logging.getLogger(__name__)

#: Share of a GPU that measuring asks for; nothing of ours runs there before the sweep.
SHARE = 0.01
#: Seconds that measuring may take in all; compiling takes half a minute on a quiet node, and a GPU may be another's meanwhile.
PATIENCE = 600.0
#: Nodes of a kind that are tried.
TRIES = 3
#: In place of the seconds of a step where nothing is trained.
INSTANT = 1e-9


def pilot_there(home: Path, trial: Trial, most: int, like: Pack, kinds: Mapping[Kind, Group]) -> Pilot:
    """The pilot for a trial's structure on a cluster: from the home folder, or measured now and kept there.

    Args:
        home: the home folder.
        trial: a trial like those to come.
        most: members that a pack can have at most.
        like: threads, device, data folder and whether steps are compiled.
        kinds: of the cluster's nodes, at least one.

    Raises:
        UserError: no node could be measured.
    """
    most = most if trial.configuration.packable else 1
    what = [trial.configuration.structure, most, like.device, like.threads, like.compiled]
    keys = {kind: digest([VERSION, torch.__version__, EVAL_BATCH, astuple(kind), what]) for kind in kinds}
    known = kept(home)
    found = {kind: known[key] for kind, key in keys.items() if key in known}
    fresh = _measured_there(trial, most, like, {kind: group for kind, group in kinds.items() if kind not in found})
    keep(home, {keys[kind]: pilot for kind, pilot in fresh.items()})
    found |= fresh
    if not found:
        raise UserError("the cluster is not ready. No node on which packs could run came to the end of a few steps.")
    return together([(found[kind], kinds[kind].workers) for kind in kinds if kind in found], like.compiled)


def together(pilots: Sequence[tuple[Pilot, int]], compiled: bool) -> Pilot:
    """One pilot for several kinds of nodes: a size that each has room for, and that costs least where all of them work.

    Args:
        pilots: what was measured on a node of each kind, and how many packs these run at a time.
        compiled: whether compiled steps were measured, which are so of one size alone.

    Returns:
        A pilot with the times of the slowest.
    """
    each = [pilot for pilot, _ in pilots]
    if len(each) == 1:
        return each[0]
    whole = replace(each[0], validation=max(p.validation for p in each), bytes=max(p.bytes for p in each))
    beside = f"the slowest of {len(each)} kinds of nodes"
    if compiled:
        slowest = max(each, key=lambda p: p.step_of_one)
        works = all(p.compiled for p in each)
        return replace(whole, size=min(p.size for p in each), step=slowest.step, compiled=works, beside=beside)
    sizes = sorted(set.intersection(*({int(size) for size in p.step} for p in each)))  # of which there is room on each
    costs = {size: 1 / sum(n * size / max(p.step[str(size)], INSTANT) for p, n in pilots) for size in sizes}
    step = {str(size): max(p.step[str(size)] for p in each) for size in sizes}
    return replace(whole, size=chosen(costs), step=step, beside=beside)


def _measured_there(trial: Trial, most: int, like: Pack, kinds: Mapping[Kind, Group]) -> dict[Kind, Pilot]:
    """Kind -> its pilot; a kind of which no node could be measured is left out."""
    import ray

    task = ray.remote(num_cpus=0, num_gpus=SHARE if like.device.startswith("cuda") else 0)(measured)
    found: dict[Kind, Pilot] = {}
    end = time.monotonic() + PATIENCE
    for number in range(TRIES):
        left = {kind: group.nodes[number] for kind, group in kinds.items() if kind not in found and number < len(group.nodes)}
        asked = {kind: (node, (trial, most, like, kind.sharing)) for kind, node in left.items()}
        for kind, answer in ask_each(task, asked, end - time.monotonic()).items():
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                found[kind] = answer
    for kind in kinds.keys() - found.keys():
        log.warning("packs are not sized for nodes like %s, which could not be measured", kind)
    return found
