"""Finding things by name: built in, installed by another package (entry points), or in a file of the user's own."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from clcore.errors import BadValue, UnknownName, UserError


@dataclass(frozen=True)
class Registry:
    """The known things of one kind.

    Attributes:
        kind: what they are, e.g. ``"method"``; also the attribute a user's file must define in capitals (``METHOD``).
        builtin: name -> ``"module:attribute"``, imported only when asked for.
    """

    kind: str
    builtin: dict[str, str]

    @property
    def group(self) -> str:
        """The entry point group under which other packages add to this registry."""
        return f"clsweep.{self.kind}s"

    def names(self) -> list[str]:
        """All names that can be asked for, files aside."""
        return sorted({*self.builtin, *(entry.name for entry in self._entries())})

    def get(self, name: str) -> Any:
        """The thing behind a name.

        Args:
            name: a built-in name, the name of an entry point, or the path of a ``.py`` file.

        Raises:
            UnknownName: no such name; the nearest one is shown.
            BadValue: the file is not there or does not define what it must.
        """
        if name.endswith(".py"):
            return self._from_file(Path(name))
        if name in self.builtin:
            module, attribute = self.builtin[name].split(":")
            return getattr(importlib.import_module(module), attribute)
        for entry in self._entries():
            if entry.name == name:
                return entry.load()
        raise UnknownName(self.kind, name, self.names())

    def _entries(self) -> importlib.metadata.EntryPoints:
        return importlib.metadata.entry_points(group=self.group)

    def _from_file(self, path: Path) -> Any:
        attribute = self.kind.upper()
        if not path.is_file():
            raise BadValue(self.kind, str(path), "the path of an existing Python file, or a known name")
        module = _load(path)
        if not hasattr(module, attribute):
            raise BadValue(self.kind, str(path), f"a file that defines {attribute}")
        return getattr(module, attribute)


def check_files(what: str, names: Iterable[str], allowed: bool | Collection[str]) -> None:
    """Sees that no Python file is run because somebody else's record names it.

    Args:
        what: what names them, e.g. ``"run 3f2a"``.
        names: of methods, benchmarks and networks.
        allowed: whether the caller has said that files are run, or the names that the caller knows.

    Raises:
        UserError: one is a file, and that was not allowed.
    """
    known = () if isinstance(allowed, bool) else allowed
    files = [name for name in names if ".py" in name and name not in known]
    if files and allowed is not True:
        raise UserError(
            f"{what} was made with {', '.join(files)}, which would be run: allow it (--run-files; in Python, run_files=True) "
            "if that is yours."
        )


def source_digest(name: str) -> str | None:
    """Digest of a user's file, so that a trial's identity changes when the file does; None for other names."""
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16] if name.endswith(".py") else None


def _load(path: Path) -> ModuleType:
    name = f"clsweep_file_{path.stem}_{source_digest(str(path))}"
    if name in sys.modules:
        return sys.modules[name]  # so that a file's classes are the same classes however often it is asked for
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses with postponed annotations look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
