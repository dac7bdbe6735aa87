"""The question of a comparison: methods over the same seeds, tuned before with the same effort where that is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clcore.errors import BadValue
from sweeps.studies.answers import Answers, sampled
from sweeps.studies.compare import BOUNDS, JOINT, RANDOM, TUNING, Told, report
from sweeps.studies.knobs import tuning_ranges
from sweeps.studies.options import Common
from sweeps.studies.plan import Needed, Study, assigned_text, needed, space_file
from sweeps.studies.report import Report
from sweeps.studies.running import is_open

KIND = "compare"
#: Most methods that a title names.
NAMED = 8


@dataclass(frozen=True)
class Comparison:
    """Methods to be compared.

    Attributes:
        methods: names or files; with joint training among them guessing is run too, for the forgetting ratio.
        common: what their sweeps share.
        tune: configurations tried of each on the first seed; 0: none.
        corruptions: whether stored weights are tried on corrupted images.
    """

    methods: tuple[str, ...]
    common: Common
    tune: int = 0
    corruptions: bool = False

    @classmethod
    def of(cls, methods: list[str], common: Common, tune: int | None, corruptions: bool = False) -> "Comparison":
        """The question.

        Raises:
            BadValue: a negative number of configurations.
        """
        if tune is not None and tune < 1:
            raise BadValue("--tune", tune, "a number of at least 1")
        more = [RANDOM] if JOINT in methods and RANDOM not in methods else []
        return cls((*methods, *more), common, tune or 0, corruptions)

    def first(self) -> list[Needed]:
        """The sweeps whose results decide the others: those that tune."""
        return [self._tuning(method) for method in self.methods if self.tune and Path(method).stem != RANDOM]

    def sweeps(self, answers: Answers) -> list[Needed]:
        """The sweeps that are compared, as far as their values are known by now."""
        found = []
        for method in self.methods:
            chosen = self.tuned(method, answers)
            if chosen is not None:
                own = {**self.common.own(method), **chosen}
                found.append(needed(KIND, Path(method).stem, self.common.settings(method, assign=own)))
        return found

    def tuned(self, method: str, answers: Answers) -> dict[str, str] | None:
        """The values chosen for a method, none where nothing is tuned; None while that is not decided."""
        if not self.tune or Path(method).stem == RANDOM:
            return {}
        sweep = self._tuning(method)
        best = [] if is_open(sweep, answers) else sampled(sweep, answers)
        return assigned_text({key: best[0].choices[key] for key in sweep.space.ranges}) if best else None

    def report(self, answers: Answers, command: str) -> Report:
        """What came out."""
        sweeps = self.sweeps(answers)
        tuned = {Path(method).stem: self.tuned(method, answers) or {} for method in self.methods}
        return report(self._study(sweeps), self.first(), answers, Told(tuned, self.corruptions, command))

    def _study(self, sweeps: list[Needed]) -> Study:
        asked = [needed(KIND, Path(method).stem, self.common.settings(method)) for method in self.methods]
        names = [Path(method).stem for method in self.methods]
        own = [name for name in names if name not in BOUNDS] or names[:1]
        shown = ", ".join(own) if len(own) <= NAMED else f"{len(own)} methods"
        title = f"{shown} compared on {Path(asked[0].settings.benchmark).stem}"
        return Study(KIND, title, self.common.home, sweeps, {"methods": names, "tune": self.tune}, asked)

    def _tuning(self, method: str) -> Needed:
        ranges: Mapping[str, Any] = tuning_ranges(method, self.common.own(method))
        space = space_file(self.common.home, "random", ranges)
        one = self.common.seeded(self.common.seeds[:1])
        fixed = {key: value for key, value in self.common.own(method).items() if key not in ranges}  # a rate that was set is varied
        values = one.settings(method, space, trials=self.tune, assign=fixed)
        return needed(KIND, f"{Path(method).stem}{TUNING}", values)
