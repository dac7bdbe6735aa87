"""Trials an hour: HAT's grid with packs, compiled, one by one, and as plain Ray Tune with the authors' way of stepping.

``python tests/bench/sweep.py [--benchmark permuted-digits] [--epochs 10] [--tasks 5] [--ways packs,compiled,alone,tune]``

The ways run one after the other in fresh processes and homes on the same cores, as often as ``--rounds`` says, and the median
counts. Plain Ray Tune is what one writes by hand: a function trainable, one configuration a process of one thread, each
logged by ``MLflowLoggerCallback``. Needs the extra ``test`` (Ray, MLflow). Start-up is part of the time, as it is for a user.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
SMAX, C = (25, 50, 100, 200, 400, 800), (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0)  # HAT, Fig. 4
OURS = {"packs": ["--compile", "off"], "compiled": ["--compile", "on"], "alone": ["--pack", "1", "--compile", "off"]}
BATCH, RATE = 64, 0.05


def ours(way: str, options: argparse.Namespace, home: Path) -> list[str]:
    """The command of one of our ways."""
    words = ["--method", "hat", "--space", "grid", "--benchmark", options.benchmark, "--tasks", str(options.tasks)]
    words += ["--network", options.network, "--set", f"epochs={options.epochs}", "--set", "protocol=fixed", "--home", str(home)]
    return [
        str(HERE.parents[1] / "sweeps" / "run.py"),
        *words,
        *(["--data-dir", options.data_dir] if options.data_dir else []),
        *OURS[way],
    ]


def theirs(options: argparse.Namespace, home: Path) -> list[str]:
    """The command of plain Ray Tune: this file again."""
    words = ["--child", str(home), "--benchmark", options.benchmark, "--tasks", str(options.tasks), "--epochs", str(options.epochs)]
    return [
        str(HERE / "sweep.py"),
        *words,
        "--network",
        options.network,
        *(["--data-dir", options.data_dir] if options.data_dir else []),
    ]


def plain_tune(options: argparse.Namespace) -> None:
    """Runs the grid as plain Ray Tune."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # keeps it on loopback; read at import
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    home = Path(options.child)
    uri = f"sqlite:///{home / 'mlflow.db'}"
    ray.init(include_dashboard=False, _temp_dir=tempfile.mkdtemp(prefix="b", dir="/tmp"), log_to_driver=False)
    fixed = {"benchmark": options.benchmark, "tasks": options.tasks, "epochs": options.epochs, "data_dir": options.data_dir}
    space = {**fixed, "network": options.network, "smax": tune.grid_search(list(SMAX)), "c": tune.grid_search(list(C))}
    run = tune.RunConfig(
        name="hat", storage_path=str(home / "tune"), callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name="hat")]
    )
    results = tune.Tuner(tune.with_resources(train, {"cpu": 1}), param_space=space, run_config=run).fit()
    ray.shutdown()
    if results.errors or len(results) != len(SMAX) * len(C):
        raise SystemExit(f"{len(results.errors)} of {len(results)} trials failed")


def train(config: dict[str, object]) -> None:
    """One configuration, task by task, with a pass over the training set and the validation data each epoch."""
    sys.path.insert(0, str(HERE))
    import torch
    from ray import tune
    from yardsticks.hat import Net, Trainer

    from clcore.benchmarks import BenchmarkOptions, build

    torch.set_num_threads(1)
    torch.manual_seed(0)
    data_dir = Path(config["data_dir"]) if config["data_dir"] else None
    benchmark = build(config["benchmark"], BenchmarkOptions(tasks=config["tasks"]), 0, data_dir)
    inputs = benchmark.input_shape[0] * benchmark.input_shape[1] * benchmark.input_shape[2]
    widths = tuple(int(width) for width in config["network"].removeprefix("mlp:").split("-"))
    net = Net(inputs, widths, tuple(len(task.classes) for task in benchmark.tasks))
    trainer = Trainer(net, config["smax"], config["c"], RATE)

    def score(index: int, split) -> float:
        right = 0
        for places in torch.arange(len(split)).split(BATCH):
            right += trainer.evaluate(index, *split.batch(places))[1]
        return right / len(split)

    for task in benchmark.tasks:
        trainer.restart(RATE)
        for _ in range(config["epochs"]):
            order = torch.randperm(len(task.train)).split(BATCH)
            for index, places in enumerate(order):
                trainer.step(task.index, *task.train.batch(places), index / max(len(order) - 1, 1))
            score(task.index, task.train)
            score(task.index, task.validation)
        trainer.close(task.index)
        scores = [score(t, benchmark.test(t)) for t in range(task.index + 1)]
        tune.report({"seen": task.index + 1, "acc": sum(scores) / len(scores)})


def timed(command: list[str]) -> float:
    """Seconds, wall, of a process that must succeed."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=HERE.parents[1], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="permuted-digits")
    parser.add_argument("--network", default="mlp:100-100")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", type=lambda text: text.split(","), default=[*OURS, "tune"])
    parser.add_argument("--data-dir")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return plain_tune(options)
    took: dict[str, list[float]] = {way: [] for way in options.ways}
    for _ in range(options.rounds):
        for way in options.ways:
            home = Path(tempfile.mkdtemp(prefix="bench"))
            took[way].append(timed(theirs(options, home) if way == "tune" else ours(way, options, home)))
            print(f"{way}: {took[way][-1]:.1f} s", file=sys.stderr, flush=True)
            shutil.rmtree(home, ignore_errors=True)
    cells = len(SMAX) * len(C)
    print(f"{cells} cells, {options.benchmark}, {options.tasks} tasks, {options.epochs} epochs a task, {options.network}")
    print("| way | s | trials an hour | times plain Ray Tune |\n|---|--:|--:|--:|")
    rows = []
    for way, seconds in took.items():
        middle = statistics.median(seconds)
        ratio = statistics.median(took["tune"]) / middle if "tune" in took else float("nan")
        rows.append({"way": way, "seconds": seconds, "trials_an_hour": 3600 * cells / middle, "times_tune": ratio})
        print(f"| {way} | {middle:.1f} | {3600 * cells / middle:.0f} | {ratio:.1f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
