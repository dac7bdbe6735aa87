"""The core training library: benchmarks, networks, methods, and one learner for all of them.

Imports torch and numpy, and nothing of the sweep around it. ``clcore.train`` trains a pack without a sweep.
"""

from typing import Any

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """Imports the learner only when it is asked for, so that ``clcore.errors`` alone costs no second of torch."""
    if name != "train":
        raise AttributeError(f"module 'clcore' has no attribute {name!r}")
    from clcore.quick import train

    return train
