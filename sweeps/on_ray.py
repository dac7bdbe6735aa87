"""The packs of a sweep as Ray Tune trials: one ``fit`` for the whole sweep, fed and listened to by the driver.

Tune's own state is never used again: a resumed sweep is a new ``fit`` over the packs that the journal says are open.
"""

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clcore.errors import UserError
from sweeps.cluster_check import check_nodes
from sweeps.driver import PACKS, Sweep
from sweeps.log_file import LogFile
from sweeps.own_group import apart
from sweeps.ray_variables import prepare_environment
from sweeps.resources import pack_resources, room_for
from sweeps.settings import Settings
from sweeps.ship import runtime_env
from sweeps.trainable import tune_pack

OBJECT_STORE = 200 * 1024**2
#: Times Tune starts a pack again after the loss of its worker or node; a pack's own faults are not tried again.
RETRIES = 3
#: Seconds that a cluster without a single core is given to get some.
JOINING = 5.0


@contextmanager
def ray_session(settings: Settings, workers: int, log_file: Path) -> Iterator[None]:
    """A Ray of our own on loopback, or a connection to an existing one; its chatter goes to the log file."""
    prepare_environment(settings.address)
    import ray

    _quiet(log_file)
    with tempfile.TemporaryDirectory(prefix="clsweep-", ignore_cleanup_errors=True) as folder:
        if settings.address:
            _connect(settings)
            check_nodes(settings.storage or str(settings.home.absolute()))
        else:
            with apart():
                ray.init(
                    address="local", num_cpus=workers * settings.cpus, num_gpus=_gpus(settings), include_dashboard=False,
                    log_to_driver=False, logging_level=logging.ERROR, object_store_memory=OBJECT_STORE, _temp_dir=folder,
                )  # fmt: skip
        try:
            yield
        finally:
            ray.shutdown()


def cluster_workers(settings: Settings) -> int:
    """Packs that the cluster can run at the same time.

    Raises:
        UserError: not even one, however long it waits.
    """
    import ray

    end = time.monotonic() + JOINING
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(node.get("CPU") for node in nodes) or time.monotonic() > end:
            return room_for(nodes, settings)
        time.sleep(0.2)  # the head of a cluster that is being started runs no trials, and is there first


def run_on_ray(sweep: Sweep, settings: Settings, workers: int) -> None:
    """Runs until nothing is left or the sweep is stopped. Ray must be up."""
    from ray import tune

    from sweeps.tune_hooks import Listener, PackSearcher

    most = settings.workers if settings.address else workers  # nodes that join a cluster later are used as well
    tuner = tune.Tuner(
        tune.with_resources(tune_pack, pack_resources(settings)),
        tune_config=tune.TuneConfig(
            search_alg=PackSearcher(sweep), num_samples=-1, reuse_actors=True, max_concurrent_trials=most,
        ),
        run_config=tune.RunConfig(
            name=PACKS,
            storage_path=settings.own_storage or str(sweep.folder.absolute()),
            callbacks=[Listener(sweep, settings.own_storage)],
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )  # fmt: skip
    tuner.fit()


def _connect(settings: Settings) -> None:
    import ray

    environment = runtime_env(Path.cwd(), settings.home) if settings.ship else None
    try:
        ray.init(address=settings.address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--address {settings.address}: it cannot be joined ({str(error).splitlines()[0]}).") from None


def _gpus(settings: Settings) -> int:
    import torch

    return torch.cuda.device_count() if settings.gpus_per_trial or settings.device.startswith("cuda") else 0


def _quiet(log_file: Path) -> None:
    handler = LogFile(log_file, delay=True)  # no file where the call turns out to be wrong
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
