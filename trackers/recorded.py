"""A run read back from any MLflow: whether it is one of ours, what it takes to run the trial again, and what came out."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from clcore.errors import BadValue, UserError
from trackers import kept
from trackers.artifacts import CONFIG, MATRIX, read_matrix
from trackers.record import FORMAT
from trackers.schema import check_format

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


@dataclass(frozen=True)
class RecordedTrial:
    """What the record has of a finished trial.

    Attributes:
        run_id: MLflow's id of its run.
        trial: its identity.
        config: its ``config.json``: what ``sweeps.trials.Pack.recipe`` gives, and which ``data`` these were.
        matrices: ``test`` and (where there were such data) ``validation`` accuracies in [0, 1], shape [T + 1, T]; NaN: not known.
        made_with: versions by package, and ``commit`` (several, with spaces between, of a trial that went on with other code).
        sweep: name of the sweep that ran it.
        sweep_id: that sweep's identity.
    """

    run_id: str
    trial: str
    config: dict[str, Any]
    matrices: dict[str, Tensor]
    made_with: dict[str, str]
    sweep: str = ""
    sweep_id: str = ""


def is_run_id(text: str) -> bool:
    """Whether a text is an id of MLflow's, and not the name of a sweep."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


def client_of(tracking_uri: str) -> "MlflowClient":
    """A client of a tracking store that is there; it is never made.

    Raises:
        UserError: it is not there, or does not answer.
    """
    from trackers.check import check_tracking, sqlite_path
    from trackers.mlflow_store import connect

    if tracking_uri.startswith("sqlite") and not sqlite_path(tracking_uri).exists():
        raise UserError(f"there is no tracking database {sqlite_path(tracking_uri)}.")  # MLflow would make an empty one
    check_tracking(tracking_uri)
    return connect(tracking_uri)


def our_run(client: "MlflowClient", run_id: str) -> "Run":
    """A run that clsweep made.

    Raises:
        UserError: there is none, it is of another program, or of a newer format.
    """
    from trackers.mlflow_store import TRACKING_ERRORS, first_line

    try:
        run = client.get_run(run_id)
    except TRACKING_ERRORS as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            raise UserError(f"there is no run {run_id!r} in this tracking store.") from None
        raise UserError(f"run {run_id!r} cannot be read: {first_line(error)}") from None
    tags = run.data.tags
    if "cl.role" not in tags:
        raise UserError(f"run {run_id} is of another program: it has no tags of clsweep's (cl.*).")
    found = tags.get("cl.format", "1")
    check_format(f"run {run_id}", int(found) if re.fullmatch(r"[0-9]{1,9}", found) else found, FORMAT)
    return run


def finished_run(client: "MlflowClient", run_id: str) -> "Run":
    """The run of a finished trial.

    Raises:
        UserError: there is no such run, or it is not a finished trial's.
    """
    run = our_run(client, run_id)
    tags = run.data.tags
    if tags["cl.role"] == "sweep":
        raise UserError(f"run {run_id} is a whole sweep ({tags.get('cl.sweep')}): name the run of one of its trials.")
    if run.info.status != "FINISHED":
        raise UserError(f"run {run_id} is not finished ({run.info.status}): there is nothing to compare with.")
    return run


def recorded_trial(client: "MlflowClient", run_id: str) -> RecordedTrial:
    """A finished trial.

    Raises:
        UserError: there is no such run, it is not a finished trial's, or its files are damaged.
    """
    run = finished_run(client, run_id)
    tags = run.data.tags
    with tempfile.TemporaryDirectory() as folder:
        matrices = read_matrix(fetch(client, run_id, MATRIX, Path(folder)))
    if "test" not in matrices or not {*matrices} <= {"test", "validation"}:
        raise UserError(f"{MATRIX} of run {run_id} has accuracies of {', '.join(matrices) or 'nothing'}, not of test data.")
    config, made = read_config(client, run_id), made_with({**tags_of_sweep(client, run), **tags})
    own = {name: tags.get(f"cl.{name}", "") for name in ("trial", "sweep", "sweep_id")}
    return RecordedTrial(run_id, config=config, matrices=matrices, made_with=made, **own)


def read_config(client: "MlflowClient", run_id: str) -> dict[str, Any]:
    """The ``config.json`` of a trial's run.

    Raises:
        UserError: it has none, or a damaged one.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = fetch(client, run_id, CONFIG, Path(folder))
        try:
            return kept.read_config(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{CONFIG} of run {run_id} is damaged: {error}.") from None


def tags_of_sweep(client: "MlflowClient", run: "Run") -> dict[str, str]:
    """Tags of the run of a sweep, or of the sweep that a trial's run belongs to; none where that is gone."""
    from trackers.mlflow_store import TRACKING_ERRORS

    own: dict[str, str] = run.data.tags
    try:
        return own if own["cl.role"] == "sweep" else dict(client.get_run(own.get("mlflow.parentRunId", "")).data.tags)
    except TRACKING_ERRORS:
        return {}


def made_with(tags: Mapping[str, str]) -> dict[str, str]:
    """Versions of packages, and the commits, that a sweep or a trial was made with, as the tags of its run say."""
    found = {name.removeprefix("cl.version."): value for name, value in tags.items() if name.startswith("cl.version.")}
    commit = tags.get("cl.commits") or tags.get("mlflow.source.git.commit")
    return {**found, **({"commit": commit} if commit else {})}


def fetch(client: "MlflowClient", run_id: str, name: str, folder: Path) -> Path:
    """Downloads a file of a run.

    Raises:
        UserError: the run has no such file, or it cannot be had.
    """
    from trackers.mlflow_store import TRACKING_ERRORS, first_line

    try:
        files = {item.path for item in client.list_artifacts(run_id)}
        if name not in files:
            why = _why_missing(client, run_id, name) if CONFIG in files else None
            told = f": {why}" if why else f"; it has: {', '.join(sorted(files)) or 'no files'}"
            raise UserError(f"run {run_id} has no {name}{told}.")
        return Path(client.download_artifacts(run_id, name, str(folder)))
    except TRACKING_ERRORS as error:
        raise UserError(f"cannot read {name} of run {run_id}: {first_line(error)}") from None


def _why_missing(client: "MlflowClient", run_id: str, name: str) -> str | None:
    """Why a run has no such file, where its record says; None otherwise."""
    if kept.is_light(Path(name)):
        return None
    if client.get_run(run_id).data.tags.get("cl.artifacts") == kept.WAITING:
        return "what is kept goes to MLflow when the sweep has ended, and is in its folder until then"
    try:
        return kept.why_missing(name, read_config(client, run_id))
    except UserError:  # damaged: that the file is missing is what was asked
        return None


def sweep_run(client: "MlflowClient", sweep: str) -> "Run":
    """The run of a sweep, the newest of its name.

    Raises:
        UserError: there is none, or it is of a newer format.
    """
    if "'" in sweep:
        raise BadValue("sweep", sweep, "the name of a sweep")
    found = _search(client, f"tags.`cl.sweep` = '{sweep}' and tags.`cl.role` = 'sweep'")
    if not found:
        raise UserError(f"no sweep {sweep!r} is in this tracking store.")
    return our_run(client, found[-1].info.run_id)


def finished_runs(client: "MlflowClient", of: "Run | None" = None) -> "list[Run]":
    """Runs of finished trials.

    Args:
        client: of MLflow.
        of: the run of a sweep, or of one of its trials: those of that sweep alone; of a reference, the sweep's references.

    Raises:
        UserError: the store cannot be read.
    """
    tags = {} if of is None else of.data.tags
    role = "reference" if tags.get("cl.role") == "reference" else "trial"
    query = f"tags.`cl.role` = '{role}' and attributes.status = 'FINISHED'"
    if of is None:
        return _search(client, query)
    sweep = tags.get("cl.sweep_id", "").replace("'", "")
    return _search(client, f"tags.`cl.sweep_id` = '{sweep}' and {query}", [of.info.experiment_id])


def _search(client: "MlflowClient", query: str, experiments: list[str] | None = None) -> "list[Run]":
    """The runs that a query finds in experiments; None: in all of clsweep's."""
    from trackers.mlflow_store import TRACKING_ERRORS, all_runs, first_line

    try:
        if experiments is None:
            experiments = [e.experiment_id for e in client.search_experiments(filter_string="name LIKE 'cl/%'")]
        return list(all_runs(client, experiments, query)) if experiments else []
    except TRACKING_ERRORS as error:
        raise UserError(f"the tracking store cannot be read: {first_line(error)}") from None
