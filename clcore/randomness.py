"""One seed, many named streams: every random choice of a trial is drawn from its own, by name.

Streams with names instead of an order make a resumed trial draw what the uninterrupted one draws, and let a new kind of
draw be added without moving the others.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """The 63-bit seed of one named stream.

    Args:
        seed: the trial's seed, >= 0.
        names: the path of the stream, e.g. ``("batches", task, epoch)``.

    Returns:
        A number that depends on the seed and on each name, and on nothing else.
    """
    key = tuple(zlib.crc32(str(name).encode()) for name in names)
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for one named stream (splits, task order, permutations, batches)."""
    return np.random.default_rng(derive(seed, *names))


@contextmanager
def torch_stream(seed: int, *names: str | int) -> Iterator[None]:
    """Seeds torch's global generators for the block and restores them afterwards.

    Functions under ``torch.func.vmap`` can draw only from the global generator, so noise inside a step comes from here.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    seed_all = torch.manual_seed if devices else torch.default_generator.manual_seed  # the first notes where it was called: slow
    with torch.random.fork_rng(devices=devices):
        seed_all(derive(seed, *names))
        yield
