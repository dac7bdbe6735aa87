"""A small task on each of some nodes of the cluster that this process has joined."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

#: What a node is called by who asks it.
Name = TypeVar("Name")
log = logging.getLogger(__name__)


def ask_each(
    task: Any,
    asked: Mapping[Name, tuple[str, tuple[Any, ...]]],
    patience: float,
    enough: Callable[[Any], float | None] = lambda answer: None,
) -> dict[Name, Any]:
    """Runs a task on each node, all at the same time.

    Args:
        task: a remote function.
        asked: name -> Ray's id of a node, and the arguments there.
        patience: seconds that all of them together may take.
        enough: says of an answer how many seconds the others still have because of it; None: as many as before.

    Returns:
        Name -> answer, or the ``RayTaskError`` that the task raised; None: the node was lost, or did not answer in time.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {}
    for name, (node, arguments) in asked.items():
        pinned = NodeAffinitySchedulingStrategy(node, soft=False)
        names[task.options(scheduling_strategy=pinned).remote(*arguments)] = name
    answers: dict[Name, Any] = dict.fromkeys(asked)
    end = time.monotonic() + patience
    while names and (left := end - time.monotonic()) > 0:
        for ref in ray.wait([*names], timeout=left)[0]:
            name = names.pop(ref)
            answers[name] = _answer(name, ref)
            if answers[name] is not None and (others := enough(answers[name])) is not None:
                end = min(end, time.monotonic() + others)
    for ref, name in names.items():
        log.warning("no answer of node %s", name)
        ray.cancel(ref, force=True)
    return answers


def _answer(name: object, ref: Any) -> Any:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(ref)
    except RayTaskError as error:
        return error
    except RayError as error:  # the node or its worker was lost
        log.warning("node %s: %s", name, error)
        return None
