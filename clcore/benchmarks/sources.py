"""Where examples come from: scikit-learn's digits, and MNIST and Fashion-MNIST from a folder."""

import os
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clcore.benchmarks.download import download
from clcore.benchmarks.splits import stratified
from clcore.errors import MissingData

# The digits come without a test set. Ours is the same for every seed, so that trials are compared on the same examples.
DIGITS_TEST_SEED = 0
DIGITS_TEST_FRACTION = 0.2

FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
#: Type of unsigned bytes in the header of an IDX file.
_BYTES = 8


@dataclass(frozen=True, eq=False)
class Source:
    """Labelled images, training and test apart in separate tensors.

    Attributes:
        name: short, for task names.
        images: training images, uint8, shape [N, C, H, W].
        labels: their classes 0 .. K-1, int64, shape [N].
        test_images: uint8, shape [M, C, H, W].
        test_labels: int64, shape [M].
        scale, mean, std: an input is ``(raw / scale - mean) / std``.
    """

    name: str
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    scale: float
    mean: float
    std: float

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        _, channels, height, width = self.images.shape
        return channels, height, width


def default_data_dir() -> Path:
    """The user's cache folder for data: ``$XDG_CACHE_HOME/clsweep/data``, else ``~/.cache/clsweep/data``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clsweep" / "data"


def digits(data_dir: Path | None = None) -> Source:
    """The 1797 handwritten digits of 8 x 8 pixels (values 0-16) that ship with scikit-learn; a fifth is the test set.

    Args:
        data_dir: not needed; there because every source is called alike.

    Raises:
        MissingData: scikit-learn is not installed.
    """
    return _digits()


def _digits_file() -> Path:
    """Where scikit-learn keeps them: importing it to be told takes more than a second."""
    found = find_spec("sklearn")
    folders = found.submodule_search_locations if found else None
    for folder in folders or ():
        if (path := Path(folder, "datasets", "data", "digits.csv.gz")).exists():
            return path
    raise MissingData("the digits come with scikit-learn: pip install scikit-learn.")


@lru_cache(maxsize=1)
def _digits() -> Source:
    rows = torch.from_numpy(np.loadtxt(_digits_file(), dtype=np.uint8, delimiter=","))
    images, labels = rows[:, :-1].reshape(-1, 1, 8, 8), rows[:, -1].long()
    train, test = stratified(labels, DIGITS_TEST_FRACTION, DIGITS_TEST_SEED, "test")
    return Source("digits", images[train], labels[train], images[test], labels[test], scale=16.0, mean=0.0, std=1.0)


def mnist(data_dir: Path | None = None) -> Source:
    """MNIST, 60000 + 10000 images of 28 x 28, normalised with .1307 and .3081 (HAT's code).

    Args:
        data_dir: the folder that holds ``MNIST/raw``; default ``default_data_dir()``.

    Raises:
        MissingData: the files are not there and cannot be downloaded, or cannot be read.
    """
    return _idx("mnist", "MNIST", (data_dir or default_data_dir()).expanduser().resolve(), 0.1307, 0.3081)


def fashion(data_dir: Path | None = None) -> Source:
    """Fashion-MNIST, 60000 + 10000 images of 28 x 28.

    Normalised with .2860 and .3530, the statistics of its own training images. HAT's .2190 and .3318
    are those of the images padded to 32 x 32, which has more black; ours are not padded.

    Args:
        data_dir: the folder that holds ``FashionMNIST/raw``; default ``default_data_dir()``.

    Raises:
        MissingData: the files are not there and cannot be downloaded, or cannot be read.
    """
    return _idx("fashion", "FashionMNIST", (data_dir or default_data_dir()).expanduser().resolve(), 0.2860, 0.3530)


@lru_cache(maxsize=2)
def _idx(name: str, kind: str, root: Path, mean: float, std: float) -> Source:
    reason = "" if _present(root, kind) else download(kind, root)
    if reason:
        raise MissingData(_missing(name, kind, root, reason))
    try:
        images, labels, test_images, test_labels = (_read(root / kind / "raw" / file) for file in FILES)
    except (OSError, ValueError) as error:
        raise MissingData(_missing(name, kind, root, f"a file cannot be read: {error}")) from error
    parts = (images.unsqueeze(1), labels.long(), test_images.unsqueeze(1), test_labels.long())
    return Source(name, *parts, scale=255.0, mean=mean, std=std)


def _read(path: Path) -> Tensor:
    """A file in the IDX format (LeCun's page of MNIST): 0, 0, type, number of dimensions, each as four bytes, the numbers.

    torchvision reads it as well, but its import takes two seconds in each process.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or not whole.
    """
    raw = np.fromfile(path, np.uint8)
    dims = 3 if "idx3" in path.name else 1
    if raw[:4].tolist() != [0, 0, _BYTES, dims]:
        raise ValueError(f"{path.name} has another header")
    head = 4 + 4 * dims
    return torch.from_numpy(raw[head:].reshape(raw[4:head].view(">u4").tolist()))


def _present(root: Path, kind: str) -> bool:
    return all(os.path.isfile(root / kind / "raw" / file) for file in FILES)


def _missing(name: str, kind: str, root: Path, reason: str) -> str:
    """One line: the folder, the reason, the files, the way out without any."""
    files = ", ".join(f"{kind}/raw/{file}" for file in FILES)
    why = " ".join(reason.split())
    return (
        f"no {name} data in {root} ({why}). Put there {files} (not compressed), name another folder with --data-dir, "
        "or use the digits, which need no files (--benchmark split-digits)."
    )
