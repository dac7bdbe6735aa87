"""Masks compared: what tasks share, how much room is left after each of them, and whether two trials found the same mask.

An entry of a mask is a unit or a weight; a ternary entry is in use unless it is masked. Layers that grew from task to task are
compared as if they had been full from the start, with nothing in the new part.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from clcore.errors import UserError
from clcore.masks import Mask

Masks = Mapping[tuple[int, str], Mask]

_CHUNK = 1 << 20  # entries of all masks compared at a time, so that large networks fit


def between_tasks(masks: Masks) -> dict[str, Tensor]:
    """How alike the masks of every two tasks of a trial are: intersection over union, layer by layer.

    Args:
        masks: (task from 0, layer) -> mask.

    Returns:
        Layer -> float64 in [0, 1], shape [tasks, tasks]: 0 where two tasks share nothing, 1 where their masks are the same, NaN
        where both use nothing.

    Raises:
        UserError: a layer has masks of different dimensions.
    """
    tasks = _tasks(masks)
    return {layer: _over_union(_in_common(_rows(found, tasks, layer))) for layer, found in _layers(masks)}


def between_trials(many: Sequence[Masks]) -> dict[tuple[int, str], Tensor]:
    """How alike the masks of several trials (seeds, say) are: intersection over union, task by task and layer by layer.

    Args:
        many: of each trial (task from 0, layer) -> mask.

    Returns:
        (task, layer) -> float64 in [0, 1], shape [trials, trials]: 1 where two trials found the same mask, NaN where both use
        nothing; a trial without such a mask uses nothing.

    Raises:
        UserError: a layer has masks of different dimensions.
    """
    result = {}
    for task, layer in dict.fromkeys(key for masks in many for key in masks):
        found = {trial: masks[task, layer].values.bool() for trial, masks in enumerate(many) if (task, layer) in masks}
        result[task, layer] = _over_union(_in_common(_rows(found, len(many), layer)))
    return result


def room_left(masks: Masks) -> dict[str, Tensor]:
    """The share of each layer that no task so far uses.

    Args:
        masks: (task from 0, layer) -> mask.

    Returns:
        Layer -> float64 in [0, 1], shape [tasks]: what is left after the first task, the second, ...

    Raises:
        UserError: a layer has masks of different dimensions.
    """
    tasks = _tasks(masks)
    return {layer: 1 - _rows(found, tasks, layer).cummax(0).values.double().mean(1) for layer, found in _layers(masks)}


def overlap(masks: Masks) -> Tensor:
    """The share of each task's mask entries, over all layers, that another task's masks hold too (HAT, Serra et al. 2018, Fig. 6).

    Args:
        masks: (task from 0, layer) -> mask.

    Returns:
        float64 in [0, 1], shape [tasks, tasks]: row t, column u is ``|t and u| / |t|``; NaN where t uses nothing.

    Raises:
        UserError: a layer has masks of different dimensions.
    """
    tasks = _tasks(masks)
    both = torch.zeros(tasks, tasks, dtype=torch.float64)
    for layer, found in _layers(masks):
        both += _in_common(_rows(found, tasks, layer))
    return both / both.diagonal().unsqueeze(1)


def _tasks(masks: Masks) -> int:
    return 1 + max((task for task, _ in masks), default=-1)


def _layers(masks: Masks) -> Iterator[tuple[str, dict[int, Tensor]]]:
    """Each layer with its tasks' masks as bool."""
    for layer in dict.fromkeys(layer for _, layer in masks):
        yield layer, {task: mask.values.bool() for (task, name), mask in masks.items() if name == layer}


def _rows(masks: Mapping[int, Tensor], count: int, layer: str) -> Tensor:
    """One layer's masks as rows, bool, shape [count, entries]; a row without a mask has nothing there."""
    dimensions = {mask.dim() for mask in masks.values()}
    if len(dimensions) > 1:
        raise UserError(f"masks of layer {layer!r} cannot be compared: they have {' and '.join(map(str, dimensions))} dimensions.")
    shape = [max(sizes) for sizes in zip(*(mask.shape for mask in masks.values()), strict=True)]
    whole = torch.zeros(count, *shape, dtype=torch.bool)
    for row, mask in masks.items():
        whole[row][tuple(slice(size) for size in mask.shape)] = mask
    return whole.flatten(1)


def _in_common(rows: Tensor) -> Tensor:
    """How many entries every two rows have in common, float64, shape [rows, rows]."""
    both = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    step = _CHUNK // len(rows) + 1
    for start in range(0, rows.shape[1], step):
        used = rows[:, start : start + step].float()  # a product of ones and zeros counts exactly up to 2 ** 24
        both += (used @ used.T).double()
    return both


def _over_union(both: Tensor) -> Tensor:
    own = both.diagonal()
    return both / (own.unsqueeze(1) + own - both)
