"""Finished trials as predictors: read back from a sweep's folder, or from any MLflow."""

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clcore.benchmarks import Benchmark
from clcore.checkpoint import read_tensors
from clcore.errors import BadValue, UserError
from clcore.predictor import Predictor, Recipe
from clcore.quick import TASK_FREE, benchmark_of
from clcore.registry import check_files
from trackers.artifacts import CONFIG, WEIGHTS
from trackers.kept import read_config, there

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

#: Whether Python files that a record names are run: no, all of them, or those named here.
Trusted = bool | Collection[str]


def stored_predictor(folder: Path, data_dir: Path | None = None, run_files: Trusted = False) -> tuple[Predictor, Benchmark]:
    """A finished trial from its folder, ``trials/ID`` of a sweep, and the benchmark it learned.

    Args:
        folder: with ``config.json`` and the weights.
        data_dir: where data files are; None: the user's cache.
        run_files: whether Python files that the record names (a method, benchmark or network of the user's) are run, or which.

    Raises:
        UserError: a file is missing or damaged, names Python files that may not be run, or the trial learned a stream.
    """
    what = f"trial {folder.name}"
    try:
        config = read_config(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise UserError(f"{CONFIG} of {what} cannot be read: {error}.") from None
    recipe, benchmark = recipe_of(what, config, data_dir, run_files)
    return Predictor(recipe, read_tensors(there(folder / WEIGHTS))), benchmark


def recorded_predictor(
    client: "MlflowClient", run_id: str, data_dir: Path | None = None, run_files: bool = False
) -> tuple[Predictor, Benchmark]:
    """The same from any MLflow.

    Args:
        client: of MLflow.
        run_id: of the trial's run.
        data_dir: where data files are; None: the user's cache.
        run_files: as for :func:`stored_predictor`.

    Raises:
        UserError: there is no such run, it is not a finished trial's, or as for :func:`stored_predictor`.
    """
    from trackers.recorded import fetch, recorded_trial

    recipe, benchmark = recipe_of(f"run {run_id}", recorded_trial(client, run_id).config, data_dir, run_files)
    with tempfile.TemporaryDirectory() as folder:
        return Predictor(recipe, read_tensors(fetch(client, run_id, WEIGHTS, Path(folder)))), benchmark


def recipe_of(what: str, config: Mapping[str, Any], data_dir: Path | None, run_files: Trusted = False) -> tuple[Recipe, Benchmark]:
    """What a trial's memory is read with, and the benchmark it was learned on.

    Args:
        what: which trial or run that is.
        config: its ``config.json``.
        data_dir: where data files are.
        run_files: whether Python files that it names are run, or which.

    Raises:
        UserError: that is damaged, names a file, or is of a stream, whose mappings are no tasks.
    """
    try:
        said, seed = config["configuration"], int(config["seed"])
        check_files(what, (said["method"], said["benchmark"]["name"], said["network"]["spec"]), run_files)
        if said["benchmark"]["options"]["scenario"] == TASK_FREE:
            raise BadValue("scenario", TASK_FREE, f"one with tasks: {what} learned a stream, which has none to tell apart")
        benchmark = benchmark_of(said["benchmark"], seed, data_dir)
        return Recipe.of(said["method"], said["hyper"], said["network"], benchmark, seed), benchmark
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{CONFIG} of {what} is damaged: {error!r}") from None
