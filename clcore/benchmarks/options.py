"""What a user can ask of a benchmark; each value is checked by itself here, together with the data in ``recipes``."""

from dataclasses import dataclass
from typing import Any

from clcore.errors import BadValue, UnknownName

SCENARIOS = ("task-il", "domain-il", "class-il", "task-free")
#: Scenarios in which all tasks have the same labels.
SHARED_LABELS = ("domain-il", "task-free")
VALIDATIONS = ("split", "train-copy", "none")


@dataclass(frozen=True)
class BenchmarkOptions:
    """How tasks are cut from a source; None means the benchmark's own default.

    Attributes:
        tasks: number of tasks, >= 1. Default: as many as the classes allow (split), 10 (permuted, rotated).
        classes_per_task: classes of each task. Default 2 (split), all (permuted, rotated).
        larger_first_task: classes of the first task (split only), e.g. 4 of ten digits gives 4, 2, 2, 2.
        scenario: task-il, domain-il, class-il, or task-free: labels as in domain-il, and the tasks come as one stream.
        validation: ``split`` holds out a part of the training data; ``train-copy`` validates on the training data (what
            HAT's code does for permuted and split MNIST); ``none`` has no validation.
        validation_fraction: share of the training data held out with ``split``, in (0, 1); HAT: 0.15.
        shuffle_classes: draw the order of classes from the seed instead of the natural 0, 1, 2, ...
        normalise: inputs have mean 0 and deviation 1 over the source, as in most papers; otherwise they are in [0, 1] (HNET).

    Raises:
        BadValue: a number out of range or of the wrong type.
        UnknownName: an unknown scenario or kind of validation.
    """

    tasks: int | None = None
    classes_per_task: int | None = None
    larger_first_task: int | None = None
    scenario: str = "task-il"
    validation: str = "split"
    validation_fraction: float = 0.15
    shuffle_classes: bool = False
    normalise: bool = True

    @property
    def shares_labels(self) -> bool:
        """Whether all tasks have the same labels."""
        return self.scenario in SHARED_LABELS

    def __post_init__(self) -> None:
        for key in ("tasks", "classes_per_task", "larger_first_task"):
            value = getattr(self, key)
            if value is not None and not is_count(value):
                raise BadValue(key, value, "an integer >= 1")
        for key, known in (("scenario", SCENARIOS), ("validation", VALIDATIONS)):
            if getattr(self, key) not in known:
                raise UnknownName(key, str(getattr(self, key)), known)
        fraction: Any = self.validation_fraction
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise BadValue("validation_fraction", fraction, "a number between 0 and 1, both excluded")
        for key in ("shuffle_classes", "normalise"):
            if not isinstance(getattr(self, key), bool):
                raise BadValue(key, getattr(self, key), "true or false")


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is an integer >= ``least`` (and not a bool, which Python takes for one)."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
