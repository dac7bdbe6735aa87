"""The nodes of a cluster, looked at before a sweep starts: each sees the storage, runs the same code, and has room."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from clcore.errors import UserError
from sweeps.each_node import ask_each
from sweeps.storage import StorageFailed, failing, made, storage_uri

#: Seconds that all nodes together may take; the first process of a node takes a few, more where packages are on a network disk.
PATIENCE = 60.0
#: Seconds that the others still have once something is wrong with one of them, so that all of it can be said at once.
GRACE = 3.0
#: Bytes that a node's temporary folder must have free: each checkpoint is made there.
LEAST_FREE = 100 * 1024**2
#: What must be the same everywhere; ``clsweep`` is a digest of the code.
SAME = ("clsweep", "python", "torch", "ray")
#: Most nodes with the same fault that are named.
SHOWN = 8
Facts = dict[str, Any]
#: What a node has said, or the error that it broke with.
Answer = Facts | Exception


def check_nodes(storage: str, needed_bytes: int = LEAST_FREE) -> None:
    """Runs a small task on every node of the cluster that this process has joined.

    Args:
        storage: where checkpoints go: an absolute path, or a URI.
        needed_bytes: bytes that must be free there, as each node sees it; object stores do not tell, and are not asked.

    Raises:
        UserError: what is wrong, node by node.
    """
    uri, said = storage_uri(storage), secrets.token_hex(8)
    look = look_around()
    here = look("", "", "")
    try:
        with _marked(uri, said) as came_back:
            asked = _asked(look, uri, said, lambda answer: GRACE if _wrong(uri, said, answer, here, needed_bytes) else None)
            wrong = {name: _wrong(uri, said, answer, here, needed_bytes) for name, answer in _answered(asked).items()}
            for name in [name for name, faults in wrong.items() if not faults and not came_back(own_file(said, name))]:
                wrong[name] = [f"what it wrote in {uri} is not seen from here"]
    except StorageFailed as error:
        raise UserError(f"--storage {storage} cannot be used: {error}") from None
    if any(wrong.values()):
        raise UserError(f"the cluster is not ready. {_told(wrong)}")


def look_around() -> Callable[[str, str, str], Facts]:
    """What a node is asked: a function that Ray sends whole, since the node may lack our code, or have another.

    It takes the storage's URI, what the driver has written there, and the name of a file to answer with, and gives versions, free
    bytes, and where the storage failed.
    """

    def look(uri: str, said: str, own: str) -> dict[str, Any]:
        """What this node is, and how it finds the storage."""
        import hashlib
        import importlib.metadata
        import importlib.util
        import platform
        import shutil
        import tempfile
        from pathlib import Path

        def version(package: str) -> str | None:
            """That of an installed package."""
            try:
                return importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                return None

        def code() -> str | None:
            """A digest of our code; None where it is not installed."""
            found = hashlib.sha256()
            for room in ("clcore", "trackers", "sweeps"):
                spec = importlib.util.find_spec(room)
                if spec is None or not spec.submodule_search_locations:
                    return None
                folder = Path(next(iter(spec.submodule_search_locations)))
                for file in sorted(folder.rglob("*.py")):
                    found.update(f"{room}/{file.relative_to(folder).as_posix()}".encode() + b"\0" + file.read_bytes())
            return found.hexdigest()[:8]

        facts: dict[str, Any] = {
            "clsweep": code(), "python": ".".join(platform.python_version_tuple()[:2]),
            "torch": version("torch"), "ray": version("ray"), "host": platform.node(),
            "temporary": tempfile.gettempdir(), "room": shutil.disk_usage(tempfile.gettempdir()).free,
        }  # fmt: skip
        if not uri:
            return facts
        try:
            from pyarrow import fs

            store, path = fs.FileSystem.from_uri(uri)
            if store.get_file_info(f"{path}/.clsweep-{said}").type != fs.FileType.File:
                return {**facts, "unseen": True}
            with store.open_input_stream(f"{path}/.clsweep-{said}") as file:
                facts["read"] = file.read().decode(errors="replace")
            with store.open_output_stream(f"{path}/{own}") as file:
                file.write(said.encode())
            facts["free"] = shutil.disk_usage(path).free if uri.startswith("file:") else None
        except (ImportError, OSError) as error:
            facts["failed"] = " ".join(str(error).split())
        return facts

    return look


def _answered(asked: Mapping[str, Answer | None]) -> dict[str, Answer]:
    """The nodes that answered. One that does not may have just been lost, which Ray finds out later: it is no reason to wait.

    Raises:
        UserError: there is none.
    """
    answers = {name: answer for name, answer in asked.items() if answer is not None}
    if not answers:
        raise UserError(f"the cluster is not ready. None of its {len(asked)} nodes gave an answer in {PATIENCE:.0f} s.")
    return answers


def _asked(
    look: Callable[[str, str, str], Facts], uri: str, said: str, enough: Callable[[Answer], float | None]
) -> dict[str, Answer | None]:
    """Node -> its answer; None: it gave none."""
    import ray

    nodes = {f"{n['NodeManagerAddress']} ({n['NodeID'][:8]})": n["NodeID"] for n in ray.nodes() if n["Alive"]}
    task = ray.remote(num_cpus=0, max_retries=0)(look)
    return ask_each(task, {name: (node, (uri, said, own_file(said, name))) for name, node in nodes.items()}, PATIENCE, enough)


@contextmanager
def _marked(uri: str, said: str) -> Iterator[Callable[[str], bool]]:
    """A file of the driver's in the storage, for the nodes to read; yields what tells whether a node's own came back.

    At the end all of them are gone.
    """
    from pyarrow import fs

    with failing(uri):
        store, path = made(uri)
        with store.open_output_stream(f"{path}/.clsweep-{said}") as file:
            file.write(said.encode())

    def came_back(name: str) -> bool:
        with failing(uri):
            if store.get_file_info(f"{path}/{name}").type != fs.FileType.File:
                return False
            with store.open_input_stream(f"{path}/{name}") as file:
                return bool(file.read() == said.encode())

    try:
        yield came_back
    finally:
        with failing(uri):
            for found in store.get_file_info(fs.FileSelector(path)):
                if found.base_name.startswith(f".clsweep-{said}"):
                    store.delete_file(found.path)


def own_file(said: str, node: str) -> str:
    """The file that a node answers with."""
    return f".clsweep-{said}-{node.partition('(')[2].rstrip(')')}"


def _wrong(uri: str, said: str, answer: Answer, here: Mapping[str, Any], needed: int) -> list[str]:
    """What is wrong with a node."""
    if isinstance(answer, Exception):
        return [f"it could not be asked ({str(answer).strip().splitlines()[-1]})"]
    lines = [_differs(name, answer[name], here[name]) for name in SAME if answer[name] != here[name]]
    if answer.get("unseen"):
        lines.append(f"it does not see {uri}: mount it there at the same path, or name a --storage that all nodes share")
    elif "failed" in answer:
        lines.append(f"it cannot use {uri} ({answer['failed']})")
    elif answer["read"] != said:
        lines.append(f"it reads something else in {uri} than was written there")
    elif (free := answer["free"]) is not None and free < needed:
        lines.append(f"{uri} has {free >> 20} MB free there; {needed >> 20} MB are needed")
    if answer["room"] < LEAST_FREE:
        lines.append(f"{answer['temporary']} has {answer['room'] >> 20} MB free; {LEAST_FREE >> 20} MB are needed")
    return lines


def _told(wrong: Mapping[str, list[str]]) -> str:
    """What is wrong, nodes with the same faults together."""
    alike: dict[str, list[str]] = {}
    for name, faults in wrong.items():
        if faults:
            alike.setdefault("; ".join(faults), []).append(name)
    lines = []
    for said, names in alike.items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"Node{'s' if len(names) > 1 else ''} {', '.join(names[:SHOWN])}{more}: {said}.")
    return " ".join(lines)


def _differs(name: str, there: str | None, here: str | None) -> str:
    what = "clsweep's code" if name == "clsweep" else name
    if there is None:
        return f"{name} is not installed{' (install it there, or --ship the working tree)' if name == 'clsweep' else ''}"
    return f"{what} is {there} there, and {here} here"
