"""Imports torchvision also where its compiled operators do not load.

torchvision registers shape rules for ``torchvision::nms`` when it is imported. Where its compiled library does not fit
the installed torch (a CUDA build beside a CPU build of torch, as two package indexes easily give), that operator is
missing and the import fails - although reading MNIST needs none of it. Declaring the operators is enough.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

from clcore.errors import MissingData

_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[torch.library.Library] = []  # an operator lives as long as the Library that declared it


def import_torchvision() -> ModuleType:
    """The torchvision module; calling it again, or in another process, is harmless.

    Raises:
        MissingData: torchvision is not installed.
    """
    if "torchvision" not in sys.modules:
        spec = importlib.util.find_spec("torchvision")
        if spec is None or spec.origin is None:
            raise MissingData("torchvision is not installed: pip install torchvision, or use split-digits.")
        if not _load_compiled(Path(spec.origin).parent):
            _declare_missing()
    return importlib.import_module("torchvision")


def _load_compiled(folder: Path) -> bool:
    """Loads the operators as torchvision itself is about to: once they are declared by us it could not any more."""
    libraries = [path for path in sorted(folder.glob("_C*")) if path.suffix in (".so", ".pyd", ".dylib")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return bool(libraries)


def _declare_missing() -> None:
    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in missing:
            library.define(name + _BOXES)  # type: ignore[no-untyped-call]
        _declared.append(library)
