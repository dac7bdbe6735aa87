"""One task of a trial as a plain network: the weights that its method makes for it, without the units that do nothing."""

from math import prod
from pathlib import Path
from typing import Literal, get_args

import torch

from clcore.errors import BadValue, UserError
from clcore.export import encoding, files
from clcore.export.cutting import alive_by_gain, alive_by_mask, read_by_none, without
from clcore.export.files import Written
from clcore.methods.base import Method, Tensors
from clcore.networks.base import HEAD
from clcore.predictor import Predictor

#: Which units go: those whose gate is nothing but rounding, or (HAT, section 4.4) all whose gate is at most one half.
Cut = Literal["negligible", "masked"]
CUTS: tuple[Cut, ...] = get_args(Cut)


def write_task(predictor: Predictor, task: int, path: Path, cut: Cut = "negligible") -> Written:
    """Writes one task as a plain network.

    Args:
        predictor: the finished trial.
        task: from 0.
        path: of the file; ends in ``.safetensors``.
        cut: which units go. ``negligible``: those whose gate is at most 2^-24, and those that nothing reads; answers stay.
            ``masked``: those that the task's mask leaves out, and no others; HAT's answers may change where gates are undecided
            (its ``s_eval_factor`` or ``binarize`` decide them).

    Raises:
        BadValue: no such task or cut.
        UserError: the method's answers are more than a network's.
    """
    if not 0 <= task < predictor.tasks:
        raise BadValue("task", task, f"0 to {predictor.tasks - 1}")
    if cut not in CUTS:
        raise BadValue("cut", cut, f"one of {', '.join(CUTS)}")
    if not is_plain(predictor):
        name = predictor.recipe.method
        raise UserError(f"one task of {name} is no plain network: its answers need more than weights. Export all tasks.")
    weights = plain_weights(predictor, task)
    network = predictor.method.network
    alive = alive_by_gain(network, weights)
    if cut == "masked":
        alive = alive_by_mask(network, weights, predictor.method.masks(predictor.memory, task))
    gone = [float(weights[f"{u}.gain"][~on].abs().max()) for u, on in alive.items() if f"{u}.gain" in weights and not on.all()]
    if cut == "negligible":
        alive = read_by_none(network, weights, alive)
    small = without(network, weights, alive)
    tensors, forms = encoding.encoded(small)
    size, header = files.write(path, files.TASK, tensors, {**_facts(predictor, task, small), "forms": forms})
    return Written(path, size, header, task, *_counts(predictor, small), max(gone, default=0.0))


def is_plain(predictor: Predictor) -> bool:
    """Whether a task's answers are those of its network (not: drawn, or adapted to stored examples)."""
    own = type(predictor.method)
    return own.predict is Method.predict and own.decide is Method.decide


def plain_weights(predictor: Predictor, task: int) -> Tensors:
    """The network's tensors for a task, whole, float32."""
    with torch.no_grad():
        weights = predictor.method.effective_weights({}, predictor.memory, predictor.hp, predictor.learned[task])
    return {name: tensor.detach().float().cpu() for name, tensor in weights.items()}


def _facts(predictor: Predictor, task: int, small: Tensors) -> dict[str, object]:
    """What it takes to run the network."""
    recipe, method = predictor.recipe, predictor.method
    all_classes = [label for own in recipe.classes for label in own]
    classes = all_classes if method.label_offset(predictor.tasks - 1) else list(recipe.classes[task])
    outputs = len(small[f"{HEAD}.weight"])
    return {
        "network": dict(recipe.network),
        "shape": list(recipe.shape),
        "method": recipe.method,
        "task": task,
        "offset": method.label_offset(task),
        "targets": recipe.layout.targets,
        "classes": [*classes, *[-1] * outputs][:outputs],
        "by_batch": any(norm.by_batch for norm in method.network.norm_modules.values()),
    }


def _counts(predictor: Predictor, small: Tensors) -> tuple[int, int, int, int]:
    """Weights left and in full, of the body; and with the head's."""
    network = predictor.method.network
    own = dict(network.named_parameters())
    left = sum(small[wire.weight].numel() for wire in network.body_wires())
    full = sum(prod(own[wire.weight].shape) for wire in network.body_wires())
    head = small[f"{HEAD}.weight"]
    return left, full, left + head.numel(), full + len(head) * network.features
