"""The authors' numbers, as tensors."""

import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    """Description and arrays of one golden trace."""
    described = json.loads((GOLDEN / f"{name}.json").read_text())
    numbers = np.load(GOLDEN / f"{name}.npz")
    return described, {key: torch.from_numpy(np.asarray(numbers[key])) for key in numbers.files}
