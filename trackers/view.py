"""How MLflow's table of runs opens: a view that is kept in a tag of the experiment, and the link that asks for it.

By default MLflow 3 folds trials under their sweep and shows no metric; the view lists all trials, with the figures that matter.
"""

import json

NAME = "clsweep"
TAG = f"mlflow.sharedViewState.{NAME}"  # where MLflow's own "share" keeps such views
_COLUMNS = ("acc/avg_validation", "acc/avg", "forgetting/diagonal", "capacity/total", "cost/bytes")


def view_state() -> str:
    """The view as MLflow's page reads it; what it does not say is as by default."""
    return json.dumps(
        {
            "orderByKey": "metrics.`acc/avg`",
            "orderByAsc": False,
            "selectedColumns": [f"metrics.`{name}`" for name in _COLUMNS],
            "runsHiddenMode": "FIRST_20_RUNS",
        }
    )


def table_link(base: str, experiment_id: str) -> str:
    """The page of an experiment as a table of its trials.

    Args:
        base: address of the MLflow server, e.g. ``http://127.0.0.1:5000``.
        experiment_id: MLflow's id of the experiment.
    """
    view = f"workflowType=machine_learning&viewStateShareKey={NAME}"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{view}"
