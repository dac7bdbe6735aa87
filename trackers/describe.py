"""The description of a sweep's run, in Markdown: what was asked, how far it is, the best, and what to type next."""

import math
import shlex
from collections.abc import Sequence

from trackers.labels import choices_text, chosen, varying_in
from trackers.record import SweepRecord, commits_of
from trackers.repeat import resume_command
from trackers.summary import Configuration, Final, configurations, final
from trackers.trial_record import TrialRecord

TABLE_ROWS = 10
LINKED_ROWS = 20
LENGTH_LIMIT = 7900  # MLflow cuts a tag at 8000 characters


def describe(record: SweepRecord, finals: dict[str, Final] | None = None) -> str:
    """The Markdown text, a function of the record alone; ``finals`` as in ``summary.configurations``."""
    parts = [
        _question(record),
        _ledger(record),
        _best(record, finals),
        _failures(record),
        _linked(record),
        _commands(record),
    ]
    text = "\n\n".join(part for part in parts if part)
    return text if len(text) <= LENGTH_LIMIT else text[:LENGTH_LIMIT] + " …"


def describe_trial(record: SweepRecord, trial: TrialRecord, run_id: str, keys: Sequence[str]) -> str:
    """The description of a trial's run: what it is, what came out, what went wrong, and how to repeat it.

    Args:
        record: of its sweep.
        trial: the trial.
        run_id: MLflow's id of its run.
        keys: what varies in the sweep.
    """
    sweep = record.sweep
    choices = choices_text(chosen(trial), keys)
    what = f"**{trial.method}**" + (f" with {_code(choices)}" if choices else "") + f", seed {trial.seed}"
    on = f"**{sweep['benchmark']}** ({sweep['tasks']} tasks, {sweep['scenario']}) with `{sweep['network']}`"
    kind = "reference" if trial.role == "reference" else "trial"
    parts = [f"{what}: {kind} `{trial.trial}` of sweep `{record.name}`, on {on}.", _outcome(record, trial)]
    if trial.fork:
        parts.append(f"Forked from run `{trial.fork['run']}` (trial `{trial.fork['trial']}`) at task {trial.fork['at']}.")
    if trial.status == "failed":
        parts.append(f"**Failed:** {(trial.reason or 'unknown').splitlines()[0][:300]}")
    if trial.status == "done":
        place = _place(record)
        parts.append(
            f"- run it again and compare: {_code(f'python sweeps/run.py --replay {run_id}{place}')}\n"
            f"- its configuration in short: {_code(f'python trackers/card.py {run_id}{place}')}"
        )
    return "\n\n".join(part for part in parts if part)[:LENGTH_LIMIT]


def _outcome(record: SweepRecord, trial: TrialRecord) -> str:
    if trial.seen < 1:
        return ""
    found = final(trial)
    figures = [f"{percent(found.validation)} on validation data"] if math.isfinite(found.validation) else []
    figures += [f"{percent(found.test)} on test data", f"{percent(found.forgetting)} forgotten"]
    cost = f"{_whole(found.bytes)} bytes to keep, {found.seconds:.1f} s of training"
    return f"**After {trial.seen} of {record.tasks} tasks:** {', '.join(figures)}; {cost}."


def _place(record: SweepRecord) -> str:
    """Where the record is, as options: what the sweep itself was told."""
    settings = record.sweep["settings"]
    uri, home = settings.get("tracking_uri"), settings.get("home")
    return f" --tracking-uri {shlex.quote(uri)}" if uri else f" --home {shlex.quote(home)}" if home else ""


def _question(record: SweepRecord) -> str:
    sweep = record.sweep
    on = f"**{sweep['benchmark']}** ({sweep['tasks']} tasks, {sweep['scenario']}) with `{sweep['network']}`"
    keys = varying_in(record)
    varied = f" Varied: {', '.join(f'`{key}`' for key in keys)}." if keys else ""
    return f"Sweep `{record.name}`: **{sweep['method']}** on {on}.{varied}"


def _ledger(record: SweepRecord) -> str:
    ledger = record.ledger
    counted = " · ".join(f"{ledger[key]} {key}" for key in ("asked", "done", "skipped", "failed"))
    return f"**Trials:** {counted} — {state(record)}, {duration(record.seconds)} of running."


def state(record: SweepRecord) -> str:
    """How far the sweep is, in words."""
    if record.end is not None:
        return "ended, all done" if record.end["status"] == "done" else "ended, some failed"
    if record.stop is not None:
        return f"stopped ({record.stop['reason']}: {record.stop['detail'] or 'no detail'}), can be resumed"
    return "running"


def _best(record: SweepRecord, finals: dict[str, Final] | None) -> str:
    found = configurations(record, finals)
    if not found:
        return ""
    keys = varying_in(record)
    head = "| | configuration | seeds | validation | test | forgetting | bytes | seconds |"
    align = "|--:|:--|--:|--:|--:|--:|--:|--:|"
    rows = [_best_row(rank, c, keys) for rank, c in enumerate(found[:TABLE_ROWS], start=1)]
    more = f"\n\n… and {len(found) - TABLE_ROWS} more in `leaderboard.csv`." if len(found) > TABLE_ROWS else ""
    title = "**Best configurations** (average accuracy after the last task, mean over seeds; ranked on validation data)"
    return "\n".join([f"{title}\n", head, align, *rows]) + more


def _best_row(rank: int, configuration: Configuration, keys: Sequence[str]) -> str:
    c = configuration
    name = f"{c.method} {choices_text(c.choices, keys)}".strip().replace("|", "\\|")
    accuracies = [percent(c.mean("validation"), c.spread("validation")), percent(c.mean("test"), c.spread("test"))]
    cells = [str(rank), name, str(len(c.finals)), *accuracies, percent(c.mean("forgetting"))]
    return "| " + " | ".join([*cells, _whole(c.mean("bytes")), f"{c.mean('seconds'):.1f}"]) + " |"


def _failures(record: SweepRecord) -> str:
    failed = [t for t in record.trials.values() if t.status == "failed"]
    if not failed:
        return ""
    lines = [f"- `{t.trial}` (seed {t.seed}): {(t.reason or 'unknown').splitlines()[0][:150]}" for t in failed[:5]]
    more = [f"- … and {len(failed) - 5} more"] if len(failed) > 5 else []
    return "\n".join(["**Failed**\n", *lines, *more])


def _linked(record: SweepRecord) -> str:
    if not record.linked:
        return ""
    items = list(record.linked.values())
    lines = [
        f"- `{t.trial}` in sweep `{t.sweep}`: {t.method} {choices_text(t.hyperparameters, t.hyperparameters)} s{t.seed}"
        for t in items[:LINKED_ROWS]
    ]
    more = [f"- … and {len(items) - LINKED_ROWS} more"] if len(items) > LINKED_ROWS else []
    return "\n".join(["**Answered by earlier sweeps** (not run again)\n", *lines, *more])


def _commands(record: SweepRecord) -> str:
    lines = [
        f"- go on where it stopped: {_code(resume_command(record.name, record.sweep['settings'].get('home')))}",
        f"- ask the same again: {_code(record.first['command'])}",
    ]
    return "\n".join([*lines, "", made_with(record, "`")])


def made_with(record: SweepRecord, mark: str = "") -> str:
    """The versions that a sweep ran with, and the commits of its code, each between two marks."""
    versions = ", ".join(f"{name} {version}" for name, version in record.sweep["versions"].items())
    commits = [f"{mark}{commit}{mark}" for commit in commits_of(record.calls)]
    return f"{versions}; commit{'s' * (len(commits) > 1)} {', '.join(commits)}" if commits else versions


def _code(command: str) -> str:
    """A command in the line, where it is wrapped: a long line of a block pushes half of MLflow's page out of sight."""
    return f"`` {command} ``" if "`" in command else f"`{command}`"


def percent(value: float, spread: float = math.nan) -> str:
    """A share in percent, ± a spread where one is known; a dash where it is not known."""
    if not math.isfinite(value):
        return "–"  # noqa: RUF001 - a dash in a table
    return f"{100 * value:z.1f} %" + (f" ± {100 * spread:.1f}" if math.isfinite(spread) else "")


def _whole(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "–"  # noqa: RUF001


def duration(seconds: float) -> str:
    """For instance ``1 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
