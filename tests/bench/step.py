"""Milliseconds a step and member: packs of every size, plain, recorded and compiled, beside plain SGD and the authors' way.

``python tests/bench/step.py [--methods hat,tfm] [--networks mlp:100-100] [--members 1,16] [--modes recorded] [--seconds 1]``

Needs only this repository, torch and numpy. Inputs are synthetic, 10 classes, batch 64; what is timed is the learner's own step
(``clcore.probe``) of a second task, so that it holds, masks or replays the first. Cells that would take too long or too much
memory are shown as such. Yardsticks are timed between the cells of their network, so that they meet the same hour of the machine.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from yardsticks import ewc, hat, hnet, rmn, supsup

from clcore import networks
from clcore.benchmarks import Benchmark, Split, Task
from clcore.errors import UserError
from clcore.methods import METHODS
from clcore.probe import probe, remembering, time_steps
from clcore.quick import make_learner, network_options
from clcore.recorded import Recorder

NETWORKS = ("mlp:100-100", "mlp:500-500", "mlp:2000-2000", "alexnet32", "resnet18")
MEMBERS = (1, 4, 16, 64, 256)
MODES = ("plain", "recorded", "compiled")
#: More steps than are ever timed.
NEVER = 10**9
EXAMPLES, BATCH, WARM_UP = 640, 64, 5
MOST_SECONDS = 20.0
#: Share of the device's memory that a pack's tensors may take.
MOST_MEMORY = 0.33
#: A step holds a few times its parameters: gradients, optimiser, activations.
COPIES = 6


def synthetic(shape: tuple[int, int, int], device: str) -> Benchmark:
    """Two tasks of noise: what it is makes no difference to how long it takes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (EXAMPLES, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (EXAMPLES,), generator=generator)
    split = Split(images, labels, torch.arange(EXAMPLES), None, 255.0, 0.1307, 0.3081)
    tasks = tuple(Task(i, f"noise {i}", tuple(range(10)), 10 * i, split, split) for i in range(2))
    return Benchmark("noise", "task-il", tasks, (split, split), shape).to(device)


def shape_of(network: str) -> tuple[int, int, int]:
    """Grey MNIST for perceptrons, colour images of 32 for the others."""
    return (1, 28, 28) if network.startswith("mlp") else (3, 32, 32)


def measure(method: str, network: str, members: int, mode: str, options: argparse.Namespace) -> float:
    """Seconds of one step of a whole pack."""
    benchmark = synthetic(shape_of(network), options.device)
    net = networks.build(network, benchmark.input_shape, 0, network_options(method)).to(options.device)
    settings = {"batch_size": BATCH}
    earlier = remembering(make_learner(method, [{}], benchmark, net, settings))
    learner = make_learner(method, [{}] * members, benchmark, net, settings, compiled=mode == "compiled")
    if mode == "plain":
        learner.compiler = Recorder(patience=NEVER)
    found = probe(learner, earlier, warm_up=WARM_UP, seconds=options.seconds).step
    if mode == "compiled" and learner.compiler.failed:
        raise UserError(learner.compiler.failed)
    return found


def memory_of(device: str) -> int:
    """Bytes of the device's memory."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def plain_sgd(network: str, options: argparse.Namespace) -> float:
    """Seconds of one step of torch's SGD on the same network, with one head."""
    shape = shape_of(network)
    net = networks.build(network, shape, 0)
    net.head = nn.Linear(net.features, 10)
    net = net.to(options.device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    images, labels = torch.randn(BATCH, *shape, device=options.device), torch.randint(10, (BATCH,), device=options.device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return time_steps(step, WARM_UP, options.seconds)


def authors(method: str, network: str, options: argparse.Namespace) -> float | None:
    """Seconds of a step the authors' way, with its share of a pass over the training set where they have one each epoch."""
    if method not in YARDSTICKS or not network.startswith("mlp:"):
        return None
    widths = tuple(int(width) for width in network.removeprefix("mlp:").split("-"))
    with torch.device(options.device):
        step = YARDSTICKS[method](784, widths)
        images, labels = torch.randn(BATCH, 1, 28, 28), torch.randint(10, (BATCH,))
    return time_steps(lambda: step(images, labels), WARM_UP, options.seconds)  # outside: the context makes each call dearer


def authors_hnet(inputs: int, widths: tuple[int, ...]) -> Callable[[Tensor, Tensor], None]:
    """Theirs in the shape that ours has, whose chunks are fitted to the network."""
    network = "mlp:" + "-".join(map(str, widths))
    benchmark = synthetic(shape_of(network), "cpu")
    net = networks.build(network, benchmark.input_shape, 0, network_options("hnet"))
    ours = make_learner("hnet", [{}], benchmark, net, {}).method.generator
    return hnet.second_task(inputs, widths, hnet.Shape(ours.layers, ours.embedding, ours.rows, ours.chunk_embedding))


YARDSTICKS: dict[str, Callable[[int, tuple[int, ...]], Callable[[Tensor, Tensor], None]]] = {
    "ewc": ewc.second_task, "hat": hat.second_task, "hnet": authors_hnet, "rmn": rmn.second_task, "supsup": supsup.second_task,
}  # fmt: skip


def cells(method: str, network: str, options: argparse.Namespace) -> dict[str, float | str]:
    """Milliseconds a step and member of each cell, or why there are none."""
    found: dict[str, float | str] = {}
    for mode in options.modes:
        alone: float | None = None
        weights = sum(p.numel() for p in networks.build(network, shape_of(network), 0).parameters())
        for members in options.members:
            if 4 * COPIES * weights * members > MOST_MEMORY * memory_of(options.device):
                found[f"{mode} K={members}"] = "memory"
            elif alone is not None and alone * members > MOST_SECONDS:
                found[f"{mode} K={members}"] = "> 20 s"
            else:
                try:
                    step = measure(method, network, members, mode, options)
                except torch.OutOfMemoryError:
                    found[f"{mode} K={members}"] = "memory"
                    continue
                except UserError as error:
                    found[f"{mode} K={members}"] = str(error).splitlines()[0][:40]
                    continue
                alone = step / members if alone is None else alone
                found[f"{mode} K={members}"] = 1e3 * step / members
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")  # noqa: E731
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    parser.add_argument("--methods", type=words, default=[name for name in METHODS.names() if METHODS.get(name).packable])
    parser.add_argument("--networks", type=words, default=NETWORKS)
    parser.add_argument("--members", type=numbers, default=MEMBERS)
    parser.add_argument("--modes", type=words, default=MODES)
    parser.add_argument("--seconds", type=float, default=1.0, help="that each cell is timed for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {options.threads} thread(s), {device}; batch {BATCH}; ms a step and member")
    columns = [f"{mode} K={k}" for mode in options.modes for k in options.members]
    print("| method | network | " + " | ".join(columns) + " | best | best / SGD | best / authors |")
    print("|---|---|" + "--:|" * (len(columns) + 3))
    rows = []
    for network in options.networks:
        for method in options.methods:
            found = cells(method, network, options)
            sgd, theirs = 1e3 * plain_sgd(network, options), authors(method, network, options)
            whole = 1e3 * theirs if theirs else None
            rows.append({"method": method, "network": network, "ms": found, "sgd_ms": sgd, "authors_ms": whole})
            best = min((value for value in found.values() if isinstance(value, float)), default=float("nan"))
            shown = [f"{value:.2f}" if isinstance(value, float) else value for value in found.values()]
            against = f"{best / whole:.2f} ({whole:.2f} ms)" if whole else "-"
            print(
                f"| {method} | {network} | " + " | ".join(shown) + f" | {best:.2f} | {best / sgd:.2f} ({sgd:.2f} ms) | {against} |"
            )
            sys.stdout.flush()
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
