"""The file in which a sweep travels: a zip of stored members, the first of which says what the others must be.

``clsweep.json`` holds ``{"format": 1, "sweep": name, "files": {path: [bytes, sha256]}}``. A file from a stranger is only
ever data: before anything is written, every member is known by that list, is stored as it is, has the size it declares,
and lies below the sweep's own folder; there are no links, and nothing in it is executed.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clcore.errors import UserError
from trackers.schema import check_format, is_count, is_name, is_place, read_json

HEADER, FORMAT = "clsweep.json", 1
HEADER_LIMIT = 64 * 1024**2  # bytes; a thousand trials take one
_CHUNK = 1024**2
_DATE = (1980, 1, 1, 0, 0, 0)  # of every member, so that packing twice gives the same bytes
_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, ValueError, RuntimeError, KeyError, ArithmeticError)


@dataclass(frozen=True)
class Parcel:
    """An opened file.

    Attributes:
        path: the file.
        sweep: name of the sweep in it.
        files: path below the sweep's folder -> (bytes, sha256).
    """

    path: Path
    sweep: str
    files: dict[str, tuple[int, str]]
    _zip: zipfile.ZipFile

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(size for size, _ in self.files.values())

    def extract(self, folder: Path) -> None:
        """Writes all files below a folder, which is made.

        Raises:
            UserError: a file is not what the list says, or cannot be written.
        """
        for name, (_, digest) in self.files.items():
            target = folder / name
            with _told(self.path):
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._zip.open(name) as source, target.open("xb") as file:
                    found = _copy(source, file)
            if found != digest:
                raise _damaged(self.path, f"{name} has another checksum than it should have")


def write_parcel(path: Path, sweep: str, contents: Mapping[str, Path | bytes]) -> int:
    """Writes a file, whole or not at all.

    Args:
        path: the file; an earlier one of ours is replaced.
        sweep: name of the sweep.
        contents: path below the sweep's folder -> the file, or what is in it.

    Returns:
        The size of the file in bytes.

    Raises:
        UserError: another file is there, or it cannot be written.
    """
    if path.exists() and not zipfile.is_zipfile(path):
        raise UserError(f"{path} is there already and is no archive; name another with --to.")
    handle, name = -1, ""
    try:
        handle, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as box:
                _fill(box, sweep, contents)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


@contextmanager
def open_parcel(path: Path) -> Iterator[Parcel]:
    """Opens a file and checks its list against its members; nothing is written.

    Raises:
        UserError: it is not there, is damaged, is no archive of clsweep's, or of a newer format.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}.")
    with _told(path):
        box = zipfile.ZipFile(path)
    with box:
        with _told(path):
            sweep, files = _header(path, box)
            wrong = _wrong(box, files)
        if wrong is not None:
            raise _damaged(path, wrong)
        yield Parcel(path, sweep, files, box)


def _fill(box: zipfile.ZipFile, sweep: str, contents: Mapping[str, Path | bytes]) -> None:
    files = {name: _measure(content) for name, content in sorted(contents.items())}
    header = {"format": FORMAT, "sweep": sweep, "files": files}
    box.writestr(_member(HEADER), json.dumps(header, indent=0))
    for name in files:
        content = contents[name]
        if isinstance(content, bytes):
            box.writestr(_member(name), content)
            continue
        with content.open("rb") as source, box.open(_member(name), "w", force_zip64=True) as target:
            shutil.copyfileobj(source, target, _CHUNK)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _measure(content: Path | bytes) -> list[Any]:
    if isinstance(content, bytes):
        return [len(content), hashlib.sha256(content).hexdigest()]
    with content.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [file.tell(), digest]


def _header(path: Path, box: zipfile.ZipFile) -> tuple[str, dict[str, tuple[int, str]]]:
    if HEADER not in box.namelist():
        raise UserError(f"{path} is no archive of a sweep: it holds no {HEADER}.")
    info = box.getinfo(HEADER)
    if _kind(info) is not None or info.file_size > HEADER_LIMIT:
        raise _damaged(path, f"{HEADER} is not as it should be")
    found = read_json(box.read(info))
    if not isinstance(found, dict):
        raise _damaged(path, f"{HEADER} is not as it should be")
    check_format(str(path), found.get("format"), FORMAT)
    sweep, files = found.get("sweep"), found.get("files")
    if not isinstance(sweep, str) or not is_name(sweep) or not isinstance(files, dict) or not all(map(_listed, files.items())):
        raise _damaged(path, f"{HEADER} is not as it should be")
    return sweep, {name: (size, digest) for name, (size, digest) in files.items()}


def _listed(entry: tuple[str, Any]) -> bool:
    name, facts = entry
    return is_place(name) and isinstance(facts, list) and len(facts) == 2 and is_count(facts[0]) and isinstance(facts[1], str)


def _wrong(box: zipfile.ZipFile, files: Mapping[str, tuple[int, str]]) -> str | None:
    """Why the members are not the files of the list; None where they are."""
    members = [info for info in box.infolist() if info.filename != HEADER]
    names = [info.filename for info in members]
    if len(names) + 1 != len(box.infolist()) or sorted(names) != sorted(files):
        return "its members are not those of its list"
    for info in members:
        if (kind := _kind(info)) is not None:
            return f"{info.filename!r} is {kind}"
        if info.file_size != files[info.filename][0]:
            return f"{info.filename!r} has another size than it should have"
    return None


def _kind(info: zipfile.ZipInfo) -> str | None:
    """What a member is, if not a stored regular file."""
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode not in (0, stat.S_IFREG) or info.is_dir():
        return "no regular file"
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        return "not stored as it is"
    return "encrypted" if info.flag_bits & 1 else None


def _copy(source: Any, target: Any) -> str:
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """One line in place of whatever a zip that is damaged, or a disk that is full, brings up."""
    try:
        yield
    except _BROKEN as error:
        raise _damaged(path, (str(error).splitlines() or [type(error).__name__])[0]) from None


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} cannot be unpacked: {why}.")
