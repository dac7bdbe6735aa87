"""``launch.py render``: the file with which another program runs a sweep - KubeRay, Slurm, or ``ray up``."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from clcore.errors import BadValue, UnknownName, UserError
from cluster.render_facts import Machines, Sweep, image_of, ray_version, sweep_of
from cluster.render_text import filled, from_home, in_shell, in_yaml, plain
from cluster.words import Retries, Words
from trackers.command import console_here, say, typed_command


@dataclass(frozen=True)
class Extra:
    """What only some kinds of files need.

    Attributes:
        retries: times that what is lost is started again.
        file: where the file goes, for the comments in it.
        hours: limit of a Slurm job.
        setup: shell command that makes ``python`` and ``ray`` known on the machines.
        token_file: Ray's token, on the machines (Slurm) or here (``ray up``).
        hosts: machines of ``ray up``, the head first.
        ssh_user: who ``ray up`` logs in as.
    """

    retries: int
    file: str
    hours: float
    setup: str | None
    token_file: str
    hosts: tuple[str, ...]
    ssh_user: str


def kuberay(sweep: Sweep, machines: Machines, extra: Extra) -> str:
    """A RayJob with its volume and the script that its head runs."""
    if sweep.outside:
        raise UserError(f"{sweep.outside[0]} is not in the pods, which have the volume at {sweep.home} alone: put it below that.")
    shared = sweep.storage is None
    claim = "clsweep-shared" if shared else "clsweep-home"
    mount = f"                volumeMounts:\n                  - {{name: sweeps, mountPath: {in_yaml(sweep.home)}}}\n"
    mount += f"            volumes:\n              - name: sweeps\n                persistentVolumeClaim: {{claimName: {claim}}}"
    own = {
        "claim": claim,
        "access": "ReadWriteMany" if shared else "ReadWriteOnce",
        "and_checkpoints": " and checkpoints" if shared else "",
        "volume_note": "All pods write to it, so its class must allow ReadWriteMany." if shared else "Only the head writes to it.",
        "worker_volumes": mount if shared else f"            # Checkpoints go to {sweep.storage}, which needs no volume.",
        "gpu": f", nvidia.com/gpu: {in_yaml(str(machines.gpus))}" if machines.gpus else "",
        "image": in_yaml(image_of(machines, "kuberay")),
        "ray_version": in_yaml(ray_version()),
        "home": in_yaml(sweep.home),
        "words": in_shell(sweep.words, 6),
    }
    return filled("kuberay.yaml", _common(sweep, machines, extra) | own)


def slurm(sweep: Sweep, machines: Machines, extra: Extra) -> str:
    """A batch script; with an image it needs the pyxis plugin."""
    image = shlex.quote(plain("--image", machines.image)) if machines.image else None
    mounts = shlex.quote(",".join(f"{folder}:{folder}" for folder in (sweep.home, *sweep.outside)))
    seconds = round(extra.hours * 3600)
    found = "# python and ray are those that the nodes find; --setup COMMAND changes that"
    own = {
        "gpu": f"#SBATCH --gpus-per-node={machines.gpus}\n" if machines.gpus else "",
        "time": f"{seconds // 86400}-{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}",
        "setup": plain("--setup", extra.setup) if extra.setup else found,
        "token_file": from_home(extra.token_file),
        "container": f"\\\n        --container-image={image} --container-mounts={mounts} --container-mount-home " if image else "",
        "home": shlex.quote(sweep.home),
        "words": in_shell(sweep.words, 8),
    }
    return filled("slurm.sh", _common(sweep, machines, extra) | own)


def ray_up(sweep: Sweep, machines: Machines, extra: Extra) -> str:
    """A file of Ray's cluster launcher for machines that are there."""
    if len(extra.hosts) != machines.workers + 1:
        said = f"{len(extra.hosts)} named" if extra.hosts else "none named"
        raise UserError(f"--hosts: ray-up wants the head and {machines.workers} workers (--workers), the head first; {said}.")
    head, *others = (plain("--hosts", host) for host in extra.hosts)
    options = ["--shm-size=512m", *(f"--volume={folder}:{folder}" for folder in (sweep.home, *sweep.outside))]
    options.append("--env-file=$HOME/.clsweep.env")  # the machine's shell knows its user's home
    own = {
        "head": in_yaml(head),
        "hosts": in_yaml(others),
        "head_address": shlex.quote(f"{head}:6379"),
        "ssh_user": in_yaml(extra.ssh_user),
        "image": in_yaml(image_of(machines, "ray-up")),
        "token_source": in_yaml(extra.token_file),
        "token_shell": from_home(extra.token_file),
        "mounts": in_yaml(options),
        "mounts_note": "The home." if sweep.storage else "The shared volume, at the same path everywhere.",
        "words": in_shell(sweep.words, 6),
    }
    return filled("ray-up.yaml", _common(sweep, machines, extra) | own)


#: What can be rendered.
KINDS: dict[str, Callable[[Sweep, Machines, Extra], str]] = {"kuberay": kuberay, "slurm": slurm, "ray-up": ray_up}


def render(  # noqa: PLR0913 - one parameter an option
    kind: Annotated[str, typer.Argument(metavar="kuberay|slurm|ray-up", help="for which program")],
    words: Words = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="machines that run trials")] = 1,
    cpus: Annotated[int, typer.Option("--cpus-per-worker", min=1, help="cores of each")] = 4,
    gpus: Annotated[int, typer.Option("--gpus-per-worker", min=0, help="GPUs of each")] = 0,
    memory: Annotated[int, typer.Option("--memory-per-worker", min=1, help="GiB of each")] = 16,
    image: Annotated[str | None, typer.Option("--image", help="container image that has clsweep; Slurm: with pyxis")] = None,
    storage: Annotated[str | None, typer.Option("--storage", help="path of a shared volume, or s3://.. for checkpoints")] = None,
    home: Annotated[str | None, typer.Option("--home", help="of the sweeps, where --storage is no path")] = None,
    tracking_uri: Annotated[str | None, typer.Option("--tracking-uri", help="MLflow server, http(s)://HOST:PORT")] = None,
    retries: Retries = 3,
    hours: Annotated[float, typer.Option("--hours", min=0.1, help="Slurm: limit of a job, which then is queued again")] = 24,
    setup: Annotated[str | None, typer.Option("--setup", help="Slurm: command that makes python known, e.g. 'source ..'")] = None,
    token_file: Annotated[str, typer.Option("--token-file", help="Slurm, ray-up: file of Ray's token")] = "~/.clsweep/ray_token",
    hosts: Annotated[str, typer.Option("--hosts", help="ray-up: HEAD,WORKER,...")] = "",
    ssh_user: Annotated[str, typer.Option("--ssh-user", help="ray-up: who logs in")] = "root",
    to: Annotated[Path | None, typer.Option("--to", help="file to write", show_default="the terminal")] = None,
) -> None:  # fmt: skip
    """Writes the file with which KubeRay, Slurm or ray up runs a sweep. It holds no secrets, only their names."""
    if kind not in KINDS:
        raise UnknownName("kind of cluster", kind, KINDS)
    machines = Machines(workers, cpus, gpus, memory, image)
    if kind != "slurm":
        image_of(machines, kind)
    for option, value in (("--storage", storage), ("--tracking-uri", tracking_uri)):
        if value is None:
            raise UserError(f"{option} is missing: the machines come and go, so journal and record must be kept elsewhere.")
    sweep = sweep_of(words, machines, str(storage), home, str(tracking_uri))
    names = tuple(host.strip() for host in hosts.split(",")) if hosts else ()
    file = str(to) if to else f"{sweep.job}.{'sh' if kind == 'slurm' else 'yaml'}"
    token_file, ssh_user = plain("--token-file", token_file), plain("--ssh-user", ssh_user)
    extra = Extra(retries, plain("--to", file), hours, setup, token_file, names, ssh_user)
    _give(KINDS[kind](sweep, machines, extra), to)


def _common(sweep: Sweep, machines: Machines, extra: Extra) -> dict[str, Any]:
    """What all templates have."""
    return {
        "title": sweep.name,
        "name": sweep.name,
        "job": sweep.job,
        "command": plain("the command", typed_command()),
        "file": shlex.quote(extra.file),
        "workers": machines.workers,
        "cpus": machines.cpus,
        "gpus": machines.gpus,
        "memory": machines.memory,
        "retries": extra.retries,
    }


def _give(text: str, to: Path | None) -> None:
    """Writes a file, or prints it as it is."""
    if to is None:
        typer.echo(text, nl=False)
        return
    try:
        to.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadValue("--to", str(to), f"a file that can be written ({error.strerror})") from None
    say(console_here(), f"written        {to}; the comments in it say how to start it")
