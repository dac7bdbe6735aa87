"""Where packs' checkpoints are while a sweep runs: in its folder or, with ``--storage``, on a shared path or in an object store.

The journal names a checkpoint by its path below the sweep's folder, or by the URI of a folder elsewhere. No credentials are in
either: the stores' own clients take them from the environment (``AWS_ACCESS_KEY_ID``, ``GOOGLE_APPLICATION_CREDENTIALS``, ...).
"""

import contextlib
import logging
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from clcore.disk import FULL
from clcore.errors import BadValue, UserError
from trackers.schema import STORES, is_store

log = logging.getLogger(__name__)

ALLOWED = f"an absolute path, or a URI ({', '.join(f'{scheme}://' for scheme in STORES)}) without a password, '?' and '#'"


class StorageFailed(OSError):  # noqa: N818
    """The storage of checkpoints could not be read or written: nobody's fault but the surroundings'."""


def storage_uri(value: str) -> str:
    """What ``--storage`` says, as a URI.

    Raises:
        BadValue: a relative path, an unknown kind of store, or credentials in it (which are not shown).
    """
    if "://" not in value:
        if not PurePosixPath(value).is_absolute():
            raise BadValue("--storage", value, ALLOWED)
        return Path(value).as_uri()
    uri = value.rstrip("/")
    if not is_store(uri):
        shown = f"{value.partition('://')[0]}://***{value.rpartition('@')[2]}" if "@" in value else value
        raise BadValue("--storage", shown.partition("?")[0], f"{ALLOWED}; credentials belong in the environment")
    return uri


def is_elsewhere(place: str) -> bool:
    """Whether a checkpoint of the journal is outside of the sweep's folder."""
    return "://" in place


def shared_path(uri: str) -> Path | None:
    """The path that a storage's URI names; None: it is an object store."""
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def name_of(checkpoint: Path | str, folder: Path) -> str:
    """How the journal names a checkpoint: a URI as it is, a path as one below the sweep's folder."""
    if isinstance(checkpoint, str):
        return checkpoint
    # absolute: Tune names folders so, while --home may be relative to where we were started
    return str(checkpoint.absolute().relative_to(folder.absolute()))


def found_at(name: str, folder: Path) -> Path | str:
    """The checkpoint behind a name that :func:`name_of` gave."""
    return name if is_elsewhere(name) else folder / name


def place(text: str) -> Path | str:
    """A path or a URI, from either as text."""
    return text if is_elsewhere(text) else Path(text)


def below(place: Path | str, *parts: str) -> Path | str:
    """A folder below a path or a URI."""
    return place.joinpath(*parts) if isinstance(place, Path) else "/".join((place, *parts))


@contextlib.contextmanager
def opened(checkpoint: Path | str) -> Iterator[Path]:
    """A checkpoint as a folder here; one that is elsewhere is fetched first, and its copy taken away at the end.

    Raises:
        StorageFailed: it cannot be fetched.
    """
    if isinstance(checkpoint, Path):
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="clsweep-") as folder:
        fetch(checkpoint, Path(folder))
        yield Path(folder)


def fetch(uri: str, target: Path) -> None:
    """Copies all files of a folder elsewhere, those of its folders too.

    Raises:
        StorageFailed: it cannot be read, or is not there.
    """
    from pyarrow import fs

    with failing(uri):
        store, path = fs.FileSystem.from_uri(uri)
        if store.get_file_info(path).type != fs.FileType.Directory:
            raise FileNotFoundError(f"there is no folder {uri}")
        fs.copy_files(path, str(target), source_filesystem=store)


def discard(place: Path | str) -> None:
    """Takes a folder away that nobody needs any more; where that fails, nothing is lost but room."""
    if isinstance(place, Path):
        shutil.rmtree(place, ignore_errors=True)
        return
    from pyarrow import fs

    try:
        with failing(place):
            store, path = fs.FileSystem.from_uri(place)
            if store.get_file_info(path).type == fs.FileType.Directory:
                store.delete_dir(path)
    except StorageFailed as error:
        log.warning("a checkpoint that is not needed any more is left where it is: %s", error)


def check_storage(uri: str) -> None:
    """Writes, reads and removes a small file, as the driver and every worker will.

    Raises:
        UserError: one of these cannot be done from here.
    """
    said = secrets.token_hex(8)
    try:
        with failing(uri):
            store, path = made(uri)
            own = f"{path}/.clsweep-{said}"
            with store.open_output_stream(own) as file:
                file.write(said.encode())
            with store.open_input_stream(own) as file:
                same = file.read() == said.encode()
            store.delete_file(own)
    except StorageFailed as error:
        raise UserError(f"--storage {uri} cannot be used: {error}") from None
    if not same:
        raise UserError(f"--storage {uri} cannot be used: what is read there is not what was written.")


def made(uri: str) -> tuple[Any, str]:
    """The file system and the path in it; on a shared path the folder is made, a bucket is its owner's to make."""
    from pyarrow import fs

    store, path = fs.FileSystem.from_uri(uri)
    if urlsplit(uri).scheme == "file":
        store.create_dir(path)
    return store, path


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Around the reading or writing of a checkpoint where it is kept.

    Args:
        what: the storage, for the message.

    Raises:
        StorageFailed: in place of any ``OSError``, which is what pyarrow raises of all stores; a full disk stays what it is.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        raise StorageFailed(f"{what}: {' '.join(str(error).split())}") from error
