"""What there is to choose from: ``--list``."""

from rich.console import Console
from rich.table import Table

from clcore import hyper
from clcore.benchmarks import BENCHMARKS
from clcore.methods import METHODS
from clcore.networks import NETWORKS
from clcore.training import Training
from sweeps.settings import Surroundings
from sweeps.spaces import BUILTIN


def show(console: Console, method: str | None) -> None:
    """All there is, or what can be set of a method."""
    show_method(console, method) if method else show_all(console)


def show_all(console: Console) -> None:
    """Methods with their first line, benchmarks, networks and spaces."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for name in METHODS.names():
        table.add_row("method", name, _first_line(METHODS.get(name)))
    for name in BENCHMARKS.names():
        table.add_row("benchmark", name, getattr(BENCHMARKS.get(name), "description", ""))
    for name in NETWORKS.names():
        table.add_row("network", name, _first_line(NETWORKS.get(name)))
    for name in (*BUILTIN, "FILE.toml"):
        table.add_row("space", name, _SPACES[name])
    console.print(table, highlight=False)
    console.print("Any of the first three may also be a FILE.py of yours. --list --method NAME shows what --set reaches.")


def show_method(console: Console, method: str) -> None:
    """Every key that ``--set`` reaches for a method: default, allowed values, grid, range, source."""
    for title, declaration in (
        (f"Hyperparameters of {method}", METHODS.get(method).Hyper),
        ("Training", Training),
        ("Benchmark and network", Surroundings),
    ):
        table = Table("key", "default", "allowed", "grid; range", "what it does", "source", title=title, title_justify="left")
        for name, facts in hyper.knobs(declaration).items():
            kind, _ = hyper.field_type(declaration, name)
            default = str(hyper.defaults(declaration)[name])
            table.add_row(name, default, facts.allowed(kind), _tried(facts), facts.help, facts.source)
        if table.row_count:
            console.print(table, highlight=False)
    console.print("In brackets: the built-in spaces leave the key alone; sweeps/study.py robustness --knobs takes these values.")


def _tried(facts: hyper.Knob) -> str:
    """Values of the built-in spaces, or in brackets those of a study."""
    listed = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in facts.grid or facts.levels)
    parts = [f"({listed})" if facts.levels else listed]
    if facts.search is not None:
        parts.append("{:g} to {:g}".format(*facts.search) + (", log" if facts.log else ""))
    return "; ".join(part for part in parts if part)


_SPACES = {
    "default": "one configuration: the defaults and what --set says",
    "grid": "every combination of the method's grid values",
    "random": "values drawn from the method's ranges",
    "tpe": "values proposed by Optuna's TPE from the method's ranges",
    "nsga2": "the same by NSGA-II, which weighs validation accuracy against stored bytes",
    "FILE.toml": "values or ranges of your own; see the README",
}


def _first_line(thing: object) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0] if thing.__doc__ else ""
