"""``python trackers/card.py RUN_ID|SWEEP``: what is worth telling of a configuration, in Markdown, read from any MLflow."""

import sys
import tempfile
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clcore.errors import UserError
from trackers.check import own_database
from trackers.command import Home, TrackingUri, run

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

EXAMPLES = """
Examples:

  python trackers/card.py tfm-grid-20d5a3a3 > card.md

  python trackers/card.py 3f2a90c1d5b84e6f9a7c0b1d2e3f4a5b --tracking-uri http://127.0.0.1:5000
"""
DASH = "-"
#: Title, metric of MLflow's, and what it is multiplied by.
FIGURES = (
    ("test accuracy, %", "acc/avg", 100.0),
    ("validation accuracy, %", "acc/avg_validation", 100.0),
    ("forgetting, %", "forgetting/diagonal", 100.0),
    ("bytes to keep", "cost/bytes", 1.0),
    ("training seconds", "cost/seconds", 1.0),
)

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES)
def show(
    what: Annotated[str, typer.Argument(metavar="RUN_ID|SWEEP", help="MLflow's id of a trial or a sweep, or a sweep's name")],
    home: Home = Path("runs"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Prints the card of a trial's configuration, or of a sweep's best: values, results over seeds, and how to repeat it."""
    typer.echo(card(what, tracking_uri or own_database(home)))


@dataclass(frozen=True)
class Facts:
    """What a card says.

    Attributes:
        runs: of the finished seeds of the configuration, the lowest seed first.
        others: how many other configurations of the sweep have a finished seed.
        varied: names of the values that differ in the sweep.
        config: ``config.json`` of the first run.
        data: digest of the data of the sweep's first seed.
        made_with: versions by package, and ``commit``, several with spaces between.
    """

    runs: list["Run"]
    others: int
    varied: list[str]
    config: dict[str, Any]
    data: str
    made_with: dict[str, str]


def card(what: str, tracking_uri: str) -> str:
    """The card in Markdown.

    Args:
        what: MLflow's id of the run of a trial or a sweep, or the name of a sweep.
        tracking_uri: of MLflow.

    Raises:
        UserError: there is no such run or sweep, it is of another program or of a newer format, or nothing of it is finished.
    """
    from trackers.recorded import client_of, is_run_id, our_run, sweep_run

    client = client_of(tracking_uri)
    found = our_run(client, what) if is_run_id(what) else sweep_run(client, what)
    facts = _gather(client, found)
    best = found.data.tags["cl.role"] == "sweep"
    parts = (_title(facts, best), _results(facts), _values(facts), _seeds(facts), _origin(facts), _repeat(facts, tracking_uri))
    return "\n\n".join(parts)


def _gather(client: "MlflowClient", found: "Run") -> Facts:
    from trackers.labels import varying
    from trackers.recorded import finished_runs, made_with, read_config, tags_of_sweep

    tags = found.data.tags
    finished = finished_runs(client, found)
    groups: dict[str, list[Run]] = {}
    for run_ in finished:
        groups.setdefault(run_.data.tags.get("cl.config", ""), []).append(run_)
    chosen = tags.get("cl.config") or _leader(client, found) or min(groups, key=lambda name: _rank(groups[name]), default="")
    if chosen not in groups:
        raise UserError(f"run {found.info.run_id} ({tags.get('cl.sweep')}) has no finished trial of its own: there is no card.")
    runs = sorted(groups[chosen], key=lambda r: int(r.data.tags["cl.seed"]) if r.data.tags.get("cl.seed", "").isdigit() else 0)
    config = read_config(client, runs[0].info.run_id)
    varied, sweep = varying(r.data.params for r in finished), tags_of_sweep(client, found)
    made = [made_with({**sweep, **run_.data.tags}) for run_ in runs]
    commits = dict.fromkeys(commit for each in made for commit in each.get("commit", "unknown").split())
    made_so = {**made[0], "commit": " ".join(commits)}
    return Facts(runs, len(groups) - 1, varied, config, sweep.get("cl.data", "unknown"), made_so)


def _leader(client: "MlflowClient", sweep: "Run") -> str | None:
    """The first configuration of a sweep's leaderboard, which breaks ties as everywhere; None where it has none yet."""
    from trackers.artifacts import LEADERBOARD, read_leaderboard
    from trackers.recorded import fetch

    try:
        with tempfile.TemporaryDirectory() as folder:
            table = read_leaderboard(fetch(client, sweep.info.run_id, f"{LEADERBOARD}.parquet", Path(folder)))
    except UserError:
        return None
    return str(table["config"][0].as_py()) if table.num_rows and "config" in table.column_names else None


def _rank(runs: list["Run"]) -> float:
    """The best mean validation accuracy first; without validation data all are alike, and the first planned stays first."""
    mean = sum(_metric(run_, "acc/avg_validation") for run_ in runs) / len(runs)
    return -mean if isfinite(mean) else 1.0


def _metric(run_: "Run", name: str) -> float:
    return float(run_.data.metrics.get(name, nan))


# -- the parts -------------------------------------------------------------------------------------------------------------


def _title(facts: Facts, best: bool) -> str:
    tags = facts.runs[0].data.tags
    title = f"# {tags.get('cl.method')} on {tags.get('cl.benchmark')} ({tags.get('cl.scenario')}), `{tags.get('cl.network')}`"
    which = f"The best of {facts.others + 1} configuration(s), on validation data," if best else "A configuration"
    lines = [title, "", f"{which} of sweep `{tags.get('cl.sweep')}`: configuration `{tags.get('cl.config')}`."]
    if "cl.parent_run" in tags:
        lines.append(f"Forked from run `{tags['cl.parent_run']}`; the values below hold from task {tags.get('cl.forked_at')} on.")
    return "\n".join(lines)


def _results(facts: Facts) -> str:
    from trackers.interval import mean_and_half

    lines = ["## Results", "", f"After the last task, over {len(facts.runs)} seed(s).", ""]
    lines += ["| | mean | 95 % interval |", "|:--|--:|--:|"]
    for title, name, factor in FIGURES:
        mean, half = mean_and_half([factor * _metric(run_, name) for run_ in facts.runs])
        interval = f"± {_number(half)}" if isfinite(half) else DASH
        lines.append(f"| {title} | {_number(mean)} | {interval} |")
    return "\n".join([*lines, "", "The interval is of the mean, by Student's t; one seed has none."])


def _values(facts: Facts) -> str:
    config = facts.config
    tables = [config.get("hyperparameters"), config.get("settings")]
    if not all(isinstance(table, dict) for table in tables):
        raise UserError(f"config.json of run {facts.runs[0].info.run_id} is damaged: it has no values.")
    parts = []
    for title, table in zip(("## Values", "## Protocol"), tables, strict=True):
        rows = [f"| {_bold(name, facts.varied)} | {_cell(value)} |" for name, value in (table or {}).items()]
        parts += [title, "", *(["| | |", "|:--|:--|", *rows] if rows else ["None."]), ""]
    return "\n".join([*parts, "Bold: what varies in the sweep."])


def _seeds(facts: Facts) -> str:
    titles = ["seed", *(title for title, _, _ in FIGURES), "run"]
    lines = ["## Seeds", "", f"| {' | '.join(titles)} |", "|" + "--:|" * len(titles)]
    for run_ in facts.runs:
        cells = [_number(factor * _metric(run_, name)) for _, name, factor in FIGURES]
        lines.append(f"| {' | '.join([run_.data.tags.get('cl.seed', DASH), *cells, f'`{run_.info.run_id}`'])} |")
    return "\n".join(lines)


def _origin(facts: Facts) -> str:
    from trackers.artifacts import WEIGHTS
    from trackers.kept import why_missing

    versions = ", ".join(f"{name} {version}" for name, version in facts.made_with.items() if name != "commit")
    lines = ["## Made with", "", f"- commit: {', '.join(f'`{commit}`' for commit in facts.made_with['commit'].split())}"]
    lines += [f"- data digest (of the sweep's first seed): `{facts.data}`"]
    lines += [f"- versions: {versions or 'unknown'}"]
    if why := why_missing(WEIGHTS, facts.config):
        lines += [f"- {why}"]
    return "\n".join(lines)


def _repeat(facts: Facts, tracking_uri: str) -> str:
    from trackers.repeat import again_command, replay_command

    seeds = [run_.data.tags.get("cl.seed", "0") for run_ in facts.runs]
    configuration = facts.config.get("configuration")
    try:
        again = again_command(configuration or {}, seeds, tracking_uri)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"config.json of run {facts.runs[0].info.run_id} is damaged: it has no configuration.") from None
    lines = ["## Repeat it", "", "```", again, "```"]
    if "pack" in facts.config:
        first = f"Seed {seeds[0]} exactly as it ran, compared with the record:"
        lines += ["", first, "", "```", replay_command(facts.runs[0].info.run_id, tracking_uri), "```"]
    return "\n".join(lines)


def _number(value: float) -> str:
    if not isfinite(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:z.2f}"


def _bold(name: str, varied: list[str]) -> str:
    return f"**{name}**" if name in varied else name


def _cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").split())


def main() -> int:
    """Runs the command line; returns the exit code."""
    return run(app)


if __name__ == "__main__":
    sys.exit(main())
