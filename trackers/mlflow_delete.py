"""A sweep's runs moved to MLflow's trash."""

from trackers.check import check_tracking, sqlite_path
from trackers.mlflow_store import all_runs, connect


def delete_runs(sweep_id: str, tracking_uri: str) -> int:
    """Deletes every run of a sweep, as MLflow's own UI does: ``mlflow gc`` then removes them for good.

    Args:
        sweep_id: the sweep's identity.
        tracking_uri: of MLflow; a database that is not there is not made.

    Returns:
        How many runs were deleted.

    Raises:
        UserError: the store cannot be reached.
        MlflowException, SQLAlchemyError, OSError: it could not do it.
    """
    if tracking_uri.startswith("sqlite") and not sqlite_path(tracking_uri).exists():
        return 0
    check_tracking(tracking_uri)
    client = connect(tracking_uri)
    experiments = [e.experiment_id for e in client.search_experiments(filter_string="name LIKE 'cl/%'")]
    runs = list(all_runs(client, experiments, f"tags.`cl.sweep_id` = '{sweep_id}'")) if experiments else []
    for run in runs:
        client.delete_run(run.info.run_id)
    return len(runs)
