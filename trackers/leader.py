"""The best configuration of a sweep, kept up as trials finish."""

from bisect import insort
from heapq import heappop, heappush

from trackers.labels import chosen
from trackers.summary import Configuration, Final, final
from trackers.trial_record import TrialRecord


class Leader:
    """What ``summary.configurations`` puts first, without a look at all trials each time one finishes.

    Attributes:
        finals: closing figures by trial.
    """

    def __init__(self) -> None:
        self.finals: dict[str, Final] = {}
        self._groups: dict[str, list[tuple[int, TrialRecord]]] = {}  # finished trials by configuration, in order of planning
        self._queue: list[tuple[float, int, int, str]] = []  # rank, place of the first, how many trials that was, configuration

    def add(self, trial: TrialRecord) -> None:
        """A trial has finished; references do not count, and no trial counts twice."""
        if trial.role != "trial" or trial.trial in self.finals:
            return
        self.finals[trial.trial] = final(trial)
        group = self._groups.setdefault(trial.config, [])
        insort(group, (trial.place, trial), key=lambda one: one[0])
        heappush(self._queue, (self._of(trial.config).rank_key, group[0][0], len(group), trial.config))

    @property
    def best(self) -> Configuration | None:
        """The best on validation data, among equals the first that was planned; None while nothing is finished."""
        while self._queue and len(self._groups[self._queue[0][3]]) != self._queue[0][2]:
            heappop(self._queue)  # of before another seed of it finished
        return self._of(self._queue[0][3]) if self._queue else None

    def _of(self, config: str) -> Configuration:
        trials = [trial for _, trial in self._groups[config]]
        return Configuration(config, trials[0].method, chosen(trials[0]), [self.finals[trial.trial] for trial in trials])
