"""The end of every report: what is missing, what failed, which sweeps it rests on, and how to repeat it."""

from collections.abc import Sequence
from pathlib import Path

from clcore.errors import UserError
from sweeps.manifest import current_commit, package_version
from sweeps.studies.answers import Answers, failures
from sweeps.studies.plan import Needed
from sweeps.studies.report import Block, Section
from sweeps.studies.running import is_open
from sweeps.studies.tables import Table
from trackers.journal import read
from trackers.record import JOURNAL

#: Trials that are named where they are missing.
_NAMED = 20
_PACKAGES = ("clsweep", "torch", "numpy", "scipy", "matplotlib", "ray", "optuna", "mlflow")


def missing_lines(sweeps: Sequence[Needed], answers: Answers) -> list[str]:
    """What a study still lacks, a line a sweep; empty where nothing does."""
    lines = []
    for needed in sweeps:
        if needed.space.search != "grid" and is_open(needed, answers):
            lines.append(f"{needed.label}: its sampled sweep {needed.settings.sweep_name()} has not ended")
        lost = answers.missing(needed)
        if lost:
            seeds = sorted({trial.seed for trial in lost})
            kinds = sum(trial.role == "reference" for trial in lost)
            of = f" ({kinds} of them references)" if kinds else ""
            lines.append(f"{needed.label}: {len(lost)} trials{of}, of seeds {', '.join(map(str, seeds))}")
    return lines


def closing_sections(sweeps: Sequence[Needed], answers: Answers, command: str) -> list[Section]:
    """The last sections of a report.

    Args:
        sweeps: all that the study asked for.
        answers: of the home.
        command: what was typed.
    """
    lacks = missing_lines(sweeps, answers)
    blocks: list[Block] = [*(lacks or ["Nothing: every trial that was asked for has finished."])]
    if lacks:
        blocks.append("The same command without --from-record runs them; what is there is not run again.")
    failed = failures(sweeps)
    if failed:
        caption = "A failed trial is tried again by the next call."
        blocks.append(Table("failed", caption, ["sweep", "trial", "why"], failed[:_NAMED], numbers=3))
    return [Section("What is missing", blocks), _sweeps(sweeps, answers), _repeat(sweeps, answers, command)]


def used_sweeps(sweeps: Sequence[Needed], answers: Answers) -> list[str]:
    """Names of the sweeps whose trials a report rests on, the study's own and others of the home, in order of use."""
    own = [needed.settings.sweep_name() for needed in sweeps if needed.folder.is_dir()]
    trials = [trial for needed in sweeps for trial in [*needed.trials(), *needed.references()]]
    return list(dict.fromkeys([*own, *answers.sweeps(trials)]))


def _sweeps(sweeps: Sequence[Needed], answers: Answers) -> Section:
    rows = []
    for needed in sweeps:
        trials = needed.trials()
        found = sum(answers.get(trial) is not None for trial in trials)
        count = f"{found} of {needed.asked}" if trials else f"{needed.asked} sampled"
        rows.append([needed.label, ", ".join(answers.sweeps(trials)) or needed.settings.sweep_name(), count])
    caption = "Which sweeps of the home hold the trials: equal trials are run once, whichever sweep asked first."
    return Section("Sweeps", [Table("sweeps", caption, ["what", "in sweep", "trials"], rows, numbers=2)])


def _repeat(sweeps: Sequence[Needed], answers: Answers, command: str) -> Section:
    own = "\n".join(needed.command() for needed in sweeps)
    spaces = {needed.settings.space for needed in sweeps if needed.settings.space.endswith(".toml")}
    files = "\n".join(f"# {path}\n{Path(path).read_text()}" for path in sorted(spaces))
    blocks: list[Block] = [("The study", command), ("Its sweeps, each by itself", own)]
    if files:
        blocks.append(("Their spaces", files.strip()))
    here = ", ".join(f"{name} {package_version(name)}" for name in _PACKAGES)
    commit = current_commit()
    blocks.append(f"This report was written with {here}{f'; commit {commit}' if commit else ''}.")
    blocks += _trained_with(used_sweeps(sweeps, answers), answers.home)
    return Section("How to repeat it", blocks)


def _trained_with(names: Sequence[str], home: Path) -> list[str]:
    """Versions that the sweeps ran with, a line for each set of them; a sweep that went on later may have run with several."""
    sets: dict[str, list[str]] = {}
    for name in names:
        try:
            events, _ = read(home / name / JOURNAL)
        except UserError:
            continue
        for start in (event for event in events if event["event"] == "sweep"):
            said = ", ".join(f"{package} {version}" for package, version in start["versions"].items())
            found = sets.setdefault(said + (f"; commit {start['git']}" if start["git"] else ""), [])
            found += [name] if name not in found else []
    if len(sets) == 1:
        return [f"Trained with {next(iter(sets))}."]
    return [f"Trained with {said}: {', '.join(found)}." for said, found in sets.items()]
