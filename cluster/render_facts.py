"""What a rendered file says: a sweep and the machines for it, checked before anything is written."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from clcore.errors import BadValue, UserError
from cluster.render_text import plain
from cluster.words import read_words
from sweeps.resources import GIB, room_for
from sweeps.storage import shared_path, storage_uri

if TYPE_CHECKING:  # it needs torch, whose import takes seconds
    from sweeps.settings import Settings

#: Options of a sweep that a rendered file sets by options of its own.
OURS = {"home": "--storage", "storage": "--storage", "tracking_uri": "--tracking-uri"}
#: Longest name of a Kubernetes job that KubeRay can derive its other names from.
LONGEST = 40
TRACKED = ("http", "https")
#: How the name of a file that a sweep reads ends: a plug-in or a space.
FILES = (".py", ".toml")


@dataclass(frozen=True)
class Machines:
    """The machines asked for.

    Attributes:
        workers: how many run trials.
        cpus: cores of each.
        gpus: GPUs of each.
        memory: of each, in GiB.
        image: container image with clsweep in it, or None.
    """

    workers: int
    cpus: int
    gpus: int
    memory: int
    image: str | None


@dataclass(frozen=True)
class Sweep:
    """The sweep of a rendered file.

    Attributes:
        name: of the sweep: with it a call goes on from the journal.
        words: of ``sweeps/run.py``.
        home: absolute path of the home folder, on a volume that outlives the machines.
        storage: URI of an object store for checkpoints; None: they are in the home, which all machines share.
        outside: folders that its words name and that are not below the home.
    """

    name: str
    words: tuple[str, ...]
    home: str
    storage: str | None
    outside: tuple[str, ...] = ()

    @property
    def job(self) -> str:
        """The name as Kubernetes allows it: letters of lower case, digits and hyphens, a letter first, and short.

        A name that has to be changed gets a digest of itself, so that two names never become one.
        """
        plain = re.sub(r"[^a-z0-9-]+", "-", self.name.lower()).strip("-")
        if plain == self.name and plain[0].isalpha() and len(plain) <= LONGEST:
            return plain
        return f"s-{plain[: LONGEST - 11].strip('-')}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"


def sweep_of(words: Sequence[str] | None, machines: Machines, storage: str, home: str | None, tracking_uri: str) -> Sweep:
    """The sweep behind ``--``, checked and completed.

    Args:
        words: as they were typed.
        machines: what it is to run on.
        storage: absolute path of a volume that all machines share, or the URI of an object store.
        home: absolute path of the home where the storage is an object store.
        tracking_uri: an MLflow server.

    Raises:
        UserError: the first thing that is wrong.
    """
    for word in words or ():
        plain("a word of the sweep", word)
    if "--resume" in (words or ()):
        raise UserError(
            "--resume does not go with render: a rendered file goes on by the name of its sweep. Give the sweep's own words."
        )
    settings = read_words(words)
    for field, option in OURS.items():
        if field in settings.model_fields_set:
            raise UserError(f"--{field.replace('_', '-')} does not go behind --: the file says it by {option} of render.")
    _check_question(settings)
    share = {} if machines.gpus == 0 or "gpus_per_trial" in settings.model_fields_set else {"gpus_per_trial": 1.0}
    machine = {"CPU": machines.cpus, "GPU": machines.gpus, "memory": machines.memory * GIB}
    room_for([machine], settings.model_copy(update=share))
    place, store = _places(storage, home)
    said = [*(words or ()), *(["--gpus-per-trial", "1"] if share else [])]
    said += ["--name", settings.sweep_name()] if settings.name is None else []
    said += ["--home", place, *(["--storage", store] if store else []), "--tracking-uri", tracking(tracking_uri)]
    folders = {path.parent if path.suffix in FILES else path for path in map(PurePosixPath, _named(settings))}
    outside = sorted(str(folder) for folder in folders if not folder.is_relative_to(place))
    return Sweep(settings.sweep_name(), tuple(said), place, store, tuple(outside))


def _named(settings: "Settings") -> list[str]:
    """The files and folders that a sweep reads on the machines."""
    names = (settings.method, settings.benchmark, settings.network.partition(":")[0], settings.space)
    return [name for name in names if name.endswith(FILES)] + ([str(settings.data_dir)] if settings.data_dir else [])


def _check_question(settings: "Settings") -> None:
    """What can be known of a sweep without its data and its cluster."""
    from clcore.benchmarks import BENCHMARKS
    from clcore.methods import METHODS
    from clcore.networks import NETWORKS
    from sweeps.spaces import find_space
    from sweeps.trials import base_configuration

    for registry, name in ((METHODS, settings.method), (BENCHMARKS, settings.benchmark), (NETWORKS, settings.network)):
        known = name.partition(":")[0] if registry is NETWORKS else name
        registry.get(known)
    for name in _named(settings):
        if not PurePosixPath(name).is_absolute():
            raise UserError(f"{name} is on this machine: put it where all machines see it, and name it by its absolute path there.")
    find_space(settings)
    base_configuration(settings)


def _places(storage: str, home: str | None) -> tuple[str, str | None]:
    """Home, and the object store if it is one."""
    uri = storage_uri(plain("--storage", storage))
    if (path := shared_path(uri)) is not None:
        if home is not None:
            raise UserError("--home goes with an object store: on a shared path the home is the storage itself.")
        return str(path), None
    if home is None:
        raise UserError(
            f"--storage {uri} keeps checkpoints; the journal needs --home too, a folder on a volume that outlives the machines."
        )
    if not PurePosixPath(plain("--home", home)).is_absolute():
        raise BadValue("--home", home, "an absolute path, as the machines see it")
    return home, uri


def tracking(uri: str) -> str:
    """The URI of an MLflow server, without a password.

    Raises:
        UserError: it holds a password (which is not shown), or is no server.
    """
    parts = urlsplit(plain("--tracking-uri", uri))
    if "@" in parts.netloc:
        raise UserError(
            "--tracking-uri holds a user or a password, which would stand in the file: leave them out, and give the machines "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in their environment."
        )
    if parts.scheme not in TRACKED or not parts.hostname:
        raise BadValue("--tracking-uri", uri, "http(s)://HOST:PORT of an MLflow server, which cluster/launch.py tracking starts")
    return uri


def image_of(machines: Machines, kind: str) -> str:
    """The container image.

    Raises:
        UserError: there is none.
    """
    if not machines.image:
        raise UserError(
            f"--image is missing: {kind} runs containers; name an image that has clsweep and Ray {ray_version()} installed."
        )
    return plain("--image", machines.image)


def ray_version() -> str:
    """The version of Ray that is installed here; a cluster's must be the same."""
    from importlib.metadata import version

    return version("ray")
