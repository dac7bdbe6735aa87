"""HNET's regulariser at many old tasks: time and memory of its gradient, delta-Gram against the direct form and the authors' loop.

``python tests/bench/regulariser.py [--tasks 10,100] [--seconds 2]``. Needs torch alone.

The hypernetwork is that of HNET's permuted MNIST with 100 tasks (appendix C: layers 200-250-350, chunks of 7500, embeddings of 128
and 12) for its target of 3,027,000 weights. ``loop`` is how the authors have it: one forward pass an old task, and targets that
are kept in memory. Each cell is a process of its own, so that peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from clcore.methods.base import Tensors
from clcore.methods.hnet.generator import Generator
from clcore.methods.hnet.hypernetwork import Hypernetwork
from clcore.methods.hnet.regulariser import Held

WEIGHTS = 3_027_000
FORMS = ("delta-gram", "direct", "loop")


def cell(form: str, tasks: int, seconds: float) -> dict[str, float]:
    """Seconds of one gradient by theta, and bytes it takes at most beyond what is there before."""
    torch.manual_seed(0)
    generator = Generator(WEIGHTS, 128, (200, 250, 350), 7500, 12, "relu")
    like = torch.zeros(())
    before = generator.draw(like)
    after = {name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in before.items()}
    embeddings = [generator.draw_embedding(like) for _ in range(tasks)]
    started = peak()
    step = (
        authors_loop(generator, before, after, embeddings) if form == "loop" else ours(form, generator, before, after, embeddings)
    )
    step()
    begun, count = time.perf_counter(), 0
    while not count or time.perf_counter() - begun < seconds:
        step()
        count += 1
    total = sum(float(gradient.square().sum()) for gradient in step())
    return {"seconds": (time.perf_counter() - begun) / count, "bytes": peak() - started, "norm": total**0.5}


def authors_loop(generator: Generator, before: Tensors, after: Tensors, embeddings: list[Tensor]) -> Callable[[], list[Tensor]]:
    """One forward pass an old task, and targets in memory."""
    targets = [generator.generate(before, embedding) for embedding in embeddings]

    def step() -> list[Tensor]:
        moving = {name: tensor.detach().requires_grad_() for name, tensor in after.items()}
        parts = [(generator.generate(moving, e) - t).square().sum() for e, t in zip(embeddings, targets, strict=True)]
        return [*torch.autograd.grad(torch.stack(parts).sum() / len(parts), list(moving.values()))]

    return step


def ours(form: str, generator: Generator, before: Tensors, after: Tensors, embeddings: list[Tensor]) -> Callable[[], list[Tensor]]:
    """What a step of the method adds to the gradients, here zeros."""
    kept = Hypernetwork(generator, Held(WEIGHTS, WEIGHTS), form=form, lookahead=False)
    memory = before | {f"embedding.{task}": embedding for task, embedding in enumerate(embeddings)}
    params = after | {"embedding": embeddings[0]}
    memory |= kept.prepare(memory)
    none = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    return lambda: [*kept.hold(none, params, memory, torch.ones(()), dict).values()]


def peak() -> int:
    """Most bytes this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=lambda text: [int(word) for word in text.split(",")], default=[10, 100])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cell", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.cell:
        return print(json.dumps(cell(options.cell, options.tasks[0], options.seconds)))
    print("| old tasks | form | s | MB beyond | times the delta-Gram's time | norm of the gradient |\n|--:|---|--:|--:|--:|--:|")
    rows = []
    for tasks in options.tasks:
        for form in FORMS:
            words = ["--cell", form, "--tasks", str(tasks), "--seconds", str(options.seconds), "--threads", str(options.threads)]
            said = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True).stdout
            rows.append({"tasks": tasks, "form": form, **json.loads(said)})
            first = next(row["seconds"] for row in rows if row["tasks"] == tasks)
            found = rows[-1]
            shown = f"{found['seconds']:.2f} | {found['bytes'] / 1e6:.0f} | {found['seconds'] / first:.1f} | {found['norm']:.6g}"
            print(f"| {tasks} | {form} | {shown} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
