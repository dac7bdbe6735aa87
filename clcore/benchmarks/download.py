"""Fetches a data set through torchvision, without hanging where there is no network and without leaving half a file."""

import contextlib
import http.client
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from clcore.benchmarks.torchvision_shim import import_torchvision

# A mirror that has not answered after this many seconds is taken for unreachable.
PATIENCE = 5.0


def download(kind: str, root: Path) -> str:
    """Downloads one of torchvision's MNIST-like data sets to ``root/kind/raw``.

    Args:
        kind: the class in ``torchvision.datasets``, e.g. ``"MNIST"``.
        root: the data folder; made when absent.

    Returns:
        Why it failed, or an empty string.
    """
    reader = getattr(import_torchvision().datasets, kind)
    if not _writable(root):
        return "and nothing can be written there"
    if not _reachable(reader.mirrors):
        return f"and no mirror answered within {PATIENCE:g} s"
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".download-", dir=root)
    except OSError as error:
        return f"and nothing can be written there: {error.strerror or error}"
    try:
        with _socket_timeout(PATIENCE):
            reader(folder, download=True)
        _adopt(Path(folder) / kind / "raw", root / kind / "raw")
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        return f"and the download failed: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


def _writable(root: Path) -> bool:
    """Whether the folder is, or can be made; asked without making it, so that a failed call leaves nothing behind."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _reachable(urls: Sequence[str]) -> bool:
    """Whether any address answers in time. In threads, because looking up a name can block beyond every timeout."""
    answered = threading.Event()

    def ask(url: str) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PATIENCE).close()
            answered.set()
        except urllib.error.HTTPError:  # an answer, if not a friendly one: the folder of a mirror need not be listed
            answered.set()
        except (OSError, http.client.HTTPException):
            pass

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    while time.monotonic() < deadline and any(thread.is_alive() for thread in threads):
        if answered.wait(0.05):
            break
    return answered.is_set()


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _adopt(source: Path, target: Path) -> None:
    """Moves complete files into place, each in one step: another process sees a whole file or none."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if not file.name.endswith(".gz"):
            file.replace(target / file.name)
