"""From finished work to a record that people browse.

``journal`` is the truth, written first; ``record`` replays it; ``mlflow_tracker`` publishes it to MLflow, as often as
one likes with the same result; ``artifacts`` and ``pictures`` are the files of a trial and of a sweep; ``read`` gives
masks, matrices and leaderboards back as tensors and tables. Importing this package imports none of them (no MLflow).
"""

import importlib
from typing import Any

_EXPORTS = {
    "Journal": "trackers.journal",
    "SweepRecord": "trackers.record",
    "replay": "trackers.record",
    "Publisher": "trackers.mlflow_tracker",
    "PublisherThread": "trackers.mlflow_thread",
    "check_tracking": "trackers.check",
    "deep_link": "trackers.check",
    "masks": "trackers.read",
    "matrix": "trackers.read",
    "leaderboard": "trackers.read",
}
__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'trackers' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
