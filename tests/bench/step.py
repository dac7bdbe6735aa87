"""Milliseconds a step and member, packed against solo: ``python tests/bench/step.py [--seconds 2]``. Needs only torch and numpy.

Inputs are synthetic, 784 pixels, 10 classes; what is timed is the learner's own step (``clcore.probe``).
"""

import argparse
import json
import platform
from pathlib import Path

import torch

from clcore import networks
from clcore.benchmarks import Benchmark, Split, Task
from clcore.probe import probe
from clcore.quick import make_learner

METHODS = ("finetune", "hat", "tfm")
NETWORKS = ("mlp:100-100", "mlp:500-500")
MEMBERS = (1, 4, 16)
EXAMPLES = 640


def synthetic() -> Benchmark:
    """Two tasks of noise: what it is makes no difference to how long it takes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (EXAMPLES, 1, 28, 28), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (EXAMPLES,), generator=generator)
    split = Split(images, labels, torch.arange(EXAMPLES), None, 255.0, 0.1307, 0.3081)
    tasks = tuple(Task(i, f"noise {i}", tuple(range(10)), 10 * i, split, split) for i in range(2))
    return Benchmark("noise", "task-il", tasks, (split, split), (1, 28, 28))


def measure(method: str, network: str, members: int, seconds: float) -> float:
    """Milliseconds of one step, a member."""
    benchmark = synthetic()
    net = networks.build(network, benchmark.input_shape, seed=0)
    learner = make_learner(method, [{}] * members, benchmark, net, {})
    return probe(learner, warm_up=10, seconds=seconds).step / members * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds each cell is timed for")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), {platform.processor() or platform.machine()}; batch 64")
    print("| method | network | " + " | ".join(f"K={k}" for k in MEMBERS) + " | solo / best pack |")
    print("|---|---|" + "--:|" * (len(MEMBERS) + 1))
    rows = []
    for method in METHODS:
        for network in NETWORKS:
            times = [measure(method, network, k, options.seconds) for k in MEMBERS]
            rows.append({"method": method, "network": network, "ms_per_member": dict(zip(MEMBERS, times, strict=True))})
            cells = " | ".join(f"{t:.2f}" for t in times)
            print(f"| {method} | {network} | {cells} | {times[0] / min(times):.1f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
