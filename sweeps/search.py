"""Who proposes the next configurations: a grid that is known beforehand, or a study that learns from what came back."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from clcore.randomness import derive
from sweeps.spaces import Range, Space

#: What a search is told of a configuration, mean over seeds, and which way is better; most hear the first alone.
OBJECTIVES = {"validation accuracy": "maximize", "stored bytes": "minimize"}
#: Searches of several objectives.
SEVERAL = ("nsga2",)
#: A study is asked for at least this many batches, so that later ones can learn from earlier ones.
ROUNDS = 5


class Search(Protocol):
    """A source of configurations, as (number, values); numbers are None where nothing is told back."""

    def ask(self, count: int) -> list[tuple[int | None, dict[str, Any]]]:
        """Up to ``count`` new configurations; an empty list when there are no more."""

    def tell(self, number: int, *values: float | None) -> None:
        """What a configuration came to, as many of ``OBJECTIVES`` as are known, in their order; None where it failed."""


class Grid:
    """All cells, once."""

    def __init__(self, space: Space) -> None:
        self._left = space.cells()

    def ask(self, count: int) -> list[tuple[int | None, dict[str, Any]]]:
        """The next cells."""
        batch, self._left = self._left[:count], self._left[count:]
        return [(None, cell) for cell in batch]

    def tell(self, number: int, *values: float | None) -> None:
        """A grid does not listen."""


class Study:
    """An Optuna study on disk, asked in batches (constant liar) and told each configuration.

    Args:
        space: what is sampled, and by which search.
        path: the study's log; a study that is there is continued.
        seed: of the sampler.
        trials: configurations in all.
    """

    def __init__(self, space: Space, path: Path, seed: int, trials: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.trials = self._left = trials
        self._again: list[tuple[int | None, dict[str, Any]]] = []
        self._space = {name: _distribution(r) for name, r in space.ranges.items()}
        storage = JournalStorage(JournalFileBackend(str(path)))
        ways = [*OBJECTIVES.values()] if space.search in SEVERAL else [*OBJECTIVES.values()][:1]
        self._study = optuna.create_study(
            storage=storage, study_name="sweep", directions=ways, load_if_exists=True, sampler=optuna.samplers.RandomSampler()
        )
        # A continued study must not draw its first points again: the seed moves on with what is there.
        drawn = derive(seed, "study", len(self._study.trials)) % 2**32
        if space.search == "tpe":
            self._study.sampler = optuna.samplers.TPESampler(seed=drawn, constant_liar=True, multivariate=True)
        elif space.search == "nsga2":  # a batch is a generation
            self._study.sampler = optuna.samplers.NSGAIISampler(seed=drawn, population_size=max(-(-trials // ROUNDS), 2))
        else:
            self._study.sampler = optuna.samplers.RandomSampler(seed=drawn)

    def continue_from(self, planned: Sequence[int]) -> None:
        """Goes on after the configurations that the journal knows.

        What was proposed and is neither in the journal nor decided (the driver died in between, or it was the same as another
        configuration) is handed out again. One whose values were not all written is failed and replaced.
        """
        known = self._study.get_trials(deepcopy=False)
        whole = [trial for trial in known if trial.params.keys() == self._space.keys()]
        lost = [trial for trial in known if trial.state == TrialState.RUNNING and trial.number not in planned]
        for trial in lost:
            if trial not in whole:
                self._study.tell(trial.number, state=TrialState.FAIL)
        self._again = [(trial.number, dict(trial.params)) for trial in lost if trial in whole]
        self._left = self.trials - len(whole)

    def ask(self, count: int) -> list[tuple[int | None, dict[str, Any]]]:
        """A batch, at most what is left of the trials asked for."""
        again, self._again = self._again[:count], self._again[count:]
        asked = [self._study.ask(self._space) for _ in range(max(min(count - len(again), self._left), 0))]
        self._left -= len(asked)
        return [*again, *((trial.number, dict(trial.params)) for trial in asked)]

    def tell(self, number: int, *values: float | None) -> None:
        """Tells what a configuration came to once; a second time changes nothing."""
        heard = [value for value in values[: len(self._study.directions)] if value is not None and math.isfinite(value)]
        failed = len(heard) < len(self._study.directions)
        state = TrialState.FAIL if failed else TrialState.COMPLETE
        if not self._study.get_trials(deepcopy=False)[number].state.is_finished():
            self._study.tell(number, None if failed else heard, state=state)


def _distribution(r: Range) -> BaseDistribution:
    if r.choices:
        return CategoricalDistribution(r.choices)
    if r.whole:
        return IntDistribution(int(r.low), int(r.high), log=r.log)
    return FloatDistribution(r.low, r.high, log=r.log)
