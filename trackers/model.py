"""``python trackers/model.py RUN_ID``: a finished trial as an MLflow model in its run, for ``mlflow models serve``."""

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

import clcore
from clcore.benchmarks import Benchmark
from clcore.errors import UserError
from clcore.predictor import Predictor
from trackers.check import own_database
from trackers.command import DataDir, Home, RunFiles, TrackingUri, console_here, run, say
from trackers.predictors import recorded_predictor

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

EXAMPLES = """
Examples:

  python trackers/model.py 3f2a90c1d5b84e6f9a7c0b1d2e3f4a5b

  export MLFLOW_TRACKING_URI=sqlite:///runs/mlflow.db

  mlflow models serve -m runs:/3f2a90c1d5b84e6f9a7c0b1d2e3f4a5b/model --env-manager local
"""
MODEL = "model"
#: Test examples of the first task that go with the model as its example.
SHOWN = 2

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(epilog=EXAMPLES)
def log(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="MLflow's id of a finished trial")],
    home: Home = Path("runs"),
    tracking_uri: TrackingUri = None,
    data_dir: DataDir = None,
    run_files: RunFiles = False,
) -> None:
    """Puts the model of a finished trial into its run, with signature and example; nothing in it is pickled."""
    uri = tracking_uri or own_database(home)
    log_model(run_id, uri, data_dir, run_files)
    console = console_here()
    say(console, f"serve it       MLFLOW_TRACKING_URI={uri} mlflow models serve -m runs:/{run_id}/{MODEL} --env-manager local")
    body = '{"inputs": [IMAGE, ...], "params": {"task": 0}}'
    say(console, f"ask it         curl -H 'Content-Type: application/json' -d '{body}' http://127.0.0.1:5000/invocations")


def log_model(run_id: str, tracking_uri: str, data_dir: Path | None = None, run_files: bool = False) -> None:
    """Puts the model of a finished trial into its run.

    Args:
        run_id: MLflow's id of the trial's run.
        tracking_uri: of MLflow.
        data_dir: where data files are; of the benchmark only what a method may know goes into the model, and an example.
        run_files: whether Python files that the record names (a method, benchmark or network of the user's) are run.

    Raises:
        UserError: as for :func:`trackers.predictors.recorded_predictor`, or the run cannot be written to.
    """
    from trackers.mlflow_store import TRACKING_ERRORS, first_line
    from trackers.recorded import client_of

    client = client_of(tracking_uri)
    predictor, benchmark = recorded_predictor(client, run_id, data_dir, run_files)
    with tempfile.TemporaryDirectory() as folder:
        save_model(predictor, benchmark, Path(folder, MODEL))
        try:
            client.log_artifacts(run_id, str(Path(folder, MODEL)), MODEL)
        except TRACKING_ERRORS as error:
            raise UserError(f"the model cannot be put into run {run_id}: {first_line(error)}") from None


def save_model(predictor: Predictor, benchmark: Benchmark, folder: Path) -> None:
    """Writes an MLflow model that needs this package's core beside it and nothing of the benchmark's data.

    Args:
        predictor: what answers.
        benchmark: where the example comes from.
        folder: made; must not be there.
    """
    import mlflow

    example = benchmark.test(0).batch(torch.arange(SHOWN))[0].numpy()
    with tempfile.TemporaryDirectory() as trial:
        predictor.save(Path(trial))
        mlflow.pyfunc.save_model(
            path=str(folder), python_model=str(Path(__file__).with_name("served.py")), artifacts={"trial": trial},
            signature=_signature(predictor), code_paths=[str(Path(clcore.__file__).parent)],
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", "numpy", "safetensors"],
            input_example=(example, {"task": 0}),
        )  # fmt: skip


def _signature(predictor: Predictor) -> "ModelSignature":
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    values = predictor.recipe.layout.targets == "values"
    label = np.dtype(np.float32 if values else np.int64)
    said = {"task": np.dtype(np.int64), "label": label, **({} if values else {"class": np.dtype(np.int64)})}
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *predictor.recipe.shape))]),
        outputs=Schema([TensorSpec(kind, (-1,), name) for name, kind in said.items()]),
        params=ParamSchema([ParamSpec("task", "long", -1)]),
    )


if __name__ == "__main__":
    sys.exit(run(app))
