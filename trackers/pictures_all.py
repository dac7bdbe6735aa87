"""Which pictures a sweep and its trials get, and that each is drawn once.

A sweep's pictures lie in its report folder. Of its trials the best has its own there too (``best_*.png``), and the first ones
of the leaderboard have them in ``trials/ID/pictures``: the best, and one more for every ``SECONDS_EACH`` that the sweep has
run, at most ``PICTURED``, so that drawing never takes more than a few percent of a sweep.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from clcore.errors import UserError
from trackers.artifacts import MASKS, SAMPLES, read_masks
from trackers.compare import overlap
from trackers.labels import run_name, varying_in
from trackers.pictures import draw_curves, draw_fit, draw_inference, draw_matrix
from trackers.pictures_parallel import draw_parallel
from trackers.pictures_sweep import draw_best_so_far, draw_cost, draw_importance, draw_leaderboard
from trackers.pictures_trial import draw_capacity, draw_overlap, draw_progress
from trackers.record import SweepRecord
from trackers.summary import Configuration
from trackers.trial_record import TrialRecord

PICTURES = "pictures"  # a trial's pictures, in its folder and in MLflow
BEST = "best_"  # what the names of the best trial's pictures in the report begin with
PICTURED = 20
SECONDS_EACH = 60.0
LARGEST_MASKS = 64_000_000  # bytes of a file of masks that are still compared with one another
_VERSION = 2  # raised when pictures change, so that a sweep that goes on gets the new ones
_SCRATCH = "drawing"
Importances = Callable[[Sequence[Configuration], Sequence[str]], Mapping[str, float] | str]

log = logging.getLogger(__name__)


def fingerprint(record: SweepRecord) -> str:
    """A digest of all that the pictures of a sweep depend on."""
    trials = sorted((t.trial, t.status, t.seen) for t in record.trials.values())
    return hashlib.sha256(json.dumps([_VERSION, trials]).encode()).hexdigest()[:16]


def draw_report(folder: Path, target: Path, record: SweepRecord, found: Sequence[Configuration], importances: Importances) -> None:
    """Draws the sweep's own pictures, and puts those of its best trial beside them.

    Args:
        folder: the sweep's folder.
        target: where they go.
        record: the sweep, with the trials of other sweeps that it is linked to.
        found: its configurations, the best first; at least one.
        importances: works out the importance of the keys that vary, or says why it cannot.

    Raises:
        OSError: the disk is full or gone.
    """
    keys = varying_in(record)
    _try(draw_curves, target / "accuracy.png", record)
    _try(draw_leaderboard, target / "leaderboard.png", found, keys)
    if len(found) > 1 and keys:
        _try(draw_parallel, target / "parallel.png", found, keys)
        _try(lambda path: draw_importance(path, importances(found, keys)), target / "importance.png")
    if sum(trial not in record.linked for trial in record.trials) > 1:
        _try(draw_best_so_far, target / "over_trials.png", record)
        _try(draw_cost, target / "cost.png", record)
    best = record.trials[found[0].finals[0].trial]
    for old in target.glob(f"{BEST}*.png"):  # another trial may have been the best
        old.unlink()
    own = _files(folder, record, best)
    if best.trial not in record.linked and (own / PICTURES).is_dir():
        for picture in (own / PICTURES).iterdir():
            shutil.copyfile(picture, target / f"{BEST}{picture.name}")
    else:
        draw_trial(target, BEST, record, best, own)
    if (own / SAMPLES).is_file():
        shutil.copyfile(own / SAMPLES, target / f"{BEST}{SAMPLES}")


def draw_trials(folder: Path, record: SweepRecord, found: Sequence[Configuration]) -> None:
    """Draws the pictures of the leaderboard's first trials that have none yet; trials of other sweeps are those sweeps' matter.

    Args:
        folder: the sweep's folder.
        record: the sweep.
        found: its configurations, the best first.

    Raises:
        OSError: the disk is full or gone.
    """
    names = [final.trial for configuration in found for final in configuration.finals]
    for name in names[: min(PICTURED, 1 + int(record.seconds / SECONDS_EACH))]:
        trial = record.trials[name]
        if name in record.linked or trial.artifacts is None:
            continue
        home = folder / trial.artifacts
        if home.is_dir() and not (home / PICTURES).exists():
            scratch = folder / _SCRATCH  # not in the trial's folder, of which files may be on their way to MLflow
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            draw_trial(scratch, "", record, trial, home)
            scratch.rename(home / PICTURES)


def draw_trial(target: Path, prefix: str, record: SweepRecord, trial: TrialRecord, files: Path) -> None:
    """Draws what there is to be seen of one finished trial.

    Args:
        target: the folder of the pictures.
        prefix: what their names begin with.
        record: the trial's sweep.
        trial: a finished trial.
        files: the folder of its files.

    Raises:
        OSError: the disk is full or gone.
    """
    name = run_name(trial, varying_in(record))
    of = "mapping" if record.sweep["scenario"] == "task-free" else "task"
    latest = trial.rows[trial.seen]

    def place(what: str) -> Path:
        return target / f"{prefix}{what}.png"

    _try(draw_matrix, place("matrix"), trial.test, f"Test accuracy of {name}")
    _try(draw_progress, place("progress"), trial, f"Accuracy and forgetting of {name}")
    if latest.capacity:
        _try(draw_capacity, place("capacity"), trial.rows, f"Weights in use by {name}")
    _try(_draw_masks, place("overlap"), files / MASKS, name, of)
    if latest.inferred:
        _try(draw_inference, place("inference"), torch.tensor(latest.inferred), f"{of.capitalize()}s inferred by {name}", of)
    if latest.fitted:
        _try(draw_fit, place("fit"), latest.fitted, f"Curves learned by {name}, after all tasks")


def _draw_masks(path: Path, masks: Path, name: str, of: str) -> None:
    """The overlap of a trial's masks, where it has masks of several tasks that are not too large to compare."""
    if not masks.is_file() or masks.stat().st_size > LARGEST_MASKS:
        return
    found = read_masks(masks)
    if len({task for task, _ in found}) < 2:
        return
    kind = "weights" if any(mask.kind == "weight" for mask in found.values()) else "units"
    draw_overlap(path, overlap(found), f"{kind.capitalize()} shared between {of}s, {name}", of)


def _files(folder: Path, record: SweepRecord, trial: TrialRecord) -> Path:
    """Where a trial's files are: in this sweep's folder, or in the one that ran it."""
    home = folder.parent / Path(record.linked[trial.trial].sweep).name if trial.trial in record.linked else folder
    return home / (trial.artifacts or "")


def _try(draw: Callable[..., None], *what: Any) -> None:
    """Draws; what cannot be drawn costs its picture, not the sweep. A full disk is the caller's matter."""
    try:
        draw(*what)
    except OSError:
        raise
    except UserError as error:
        log.warning("no picture: %s", error)
    except Exception:  # values of a user's method can be whatever, and the numbers are in the record all the same
        log.warning("no picture %s", what[0], exc_info=True)
