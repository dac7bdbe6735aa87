"""The study's own run in MLflow: its report as files, its numbers as metrics, and links to the runs of its sweeps."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clcore.errors import UserError
from sweeps.manifest import current_commit
from sweeps.studies.report import Report, markdown
from trackers.check import ARTIFACTS
from trackers.describe import LENGTH_LIMIT
from trackers.rows import clean

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

ROLE = "study"


def publish(report: Report, sweeps: Sequence[str], command: str) -> str:
    """Brings the run of a study up to date; with the same report it changes nothing.

    Args:
        report: already written to the study's folder.
        sweeps: names of the sweeps it rests on.
        command: what was typed.

    Returns:
        MLflow's id of the run.

    Raises:
        UserError: the store cannot be opened.
        MlflowException, SQLAlchemyError, OSError: the store could not take it.
    """
    from mlflow.entities import Metric, Param, RunTag

    from trackers.mlflow_store import all_runs, find_experiment, open_store

    study, settings = report.study, report.study.first
    root = settings.home.absolute() / ARTIFACTS
    client = open_store(settings.tracking, root)
    experiment = find_experiment(client, settings.tracking, root, f"cl/{Path(settings.benchmark).stem}")
    query = f"tags.`cl.role` = '{ROLE}' and tags.`cl.study_name` = '{study.name}'"
    run = next(iter(all_runs(client, [experiment], query)), None)
    text = markdown(report)
    digest = hashlib.sha256((text + json.dumps(list(sweeps))).encode()).hexdigest()[:16]
    if run is None:
        run = client.create_run(experiment, run_name=study.name, tags={"cl.role": ROLE, "cl.study_name": study.name})
    elif run.data.tags.get("cl.report") == digest:
        return str(run.info.run_id)
    run_id = str(run.info.run_id)
    links = _links(client, sweeps)
    client.log_artifacts(run_id, str(study.folder))
    params = {key: value for key, value in _params(report).items() if key not in run.data.params}
    now = int(time.time() * 1000)
    metrics = [Metric(clean(key), value, now, 0) for key, value in report.metrics.items() if not math.isnan(value)]
    client.log_batch(run_id, metrics=metrics, params=[Param(key, value) for key, value in params.items()])
    tags = {**_tags(report, sweeps, command, links), "cl.report": digest}  # last: they say that all is there
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    client.set_terminated(run_id, "FINISHED")
    return run_id


def _links(client: "MlflowClient", sweeps: Sequence[str]) -> dict[str, "Run"]:
    """The runs of the sweeps, of those that this store has."""
    from trackers.recorded import sweep_run

    found = {}
    for name in sweeps:
        try:
            found[name] = sweep_run(client, name)
        except UserError:  # a sweep may have been published elsewhere, or deleted; its name stays
            continue
    return found


def _tags(report: Report, sweeps: Sequence[str], command: str, links: dict[str, "Run"]) -> dict[str, str]:
    settings = report.study.first
    tags = {
        "cl.study_kind": report.study.kind,
        "cl.sweeps": " ".join(sweeps)[:LENGTH_LIMIT],
        "cl.sweep_runs": " ".join(found.info.run_id for found in links.values())[:LENGTH_LIMIT],
        "cl.benchmark": Path(settings.benchmark).stem,
        "cl.network": settings.network,
        "cl.scenario": settings.scenario,
        "mlflow.source.name": command,
        "mlflow.source.type": "LOCAL",
        "mlflow.note.content": _note(report, links, sweeps),
    }
    commit = current_commit()
    return {**tags, **({"mlflow.source.git.commit": commit} if commit else {})}


def _params(report: Report) -> dict[str, str]:
    facts: dict[str, Any] = {**report.study.facts, "seeds": " ".join(map(str, report.study.first.seeds))}
    return {clean(key): str(value)[:500] for key, value in facts.items()}


def _note(report: Report, links: dict[str, "Run"], sweeps: Sequence[str]) -> str:
    lines = [f"**{report.study.title}**", "", report.lead, "", "The report: artifact `index.html`.", "", "Its sweeps:"]
    for name in sweeps:
        run = links.get(name)
        lines.append(f"- [{name}](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})" if run else f"- {name}")
    tables = [f"\n{table.markdown()}" for table in report.tables[:1]]
    return "\n".join([*lines, *tables])[:LENGTH_LIMIT]
