"""RMN's eyes on a stream: it leaves out what earlier mappings know, and takes a loss of confidence for a new task.

Algorithm 2, lines 4 and 7. The paper names the tests (Welch's t on the KL between prior and posterior; high and confident
activations); their thresholds were chosen here.
"""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from clcore.methods.base import Batch, Tensors
from clcore.methods.rmn.inference import familiar, surprise
from clcore.methods.rmn.welch import welch
from clcore.streams.learner import StreamLearner, Verdict

#: Share of the newest batch in the level of activations that a mapping is used to.
MOMENTUM = 0.1
#: The level is this quantile of the largest activations.
LOW_QUANTILE = 0.25


class TaskSwitch:
    """Watches one stream.

    Args:
        p: largest p-value of a loss of confidence that counts.
        drop: least loss of confidence that counts, as a share of the reference's: what is nearly certain varies little, and so
            the smallest loss is significant.
        in_a_row: such batches it takes, > 1 for fuzzy boundaries.
        lag: accepted batches between the newest one and that it is compared with; > 1 to see a slow change.
        probability: smallest probability of the likeliest class at which an earlier mapping counts as confident.
        grace: batches after a new mapping began in which it is not asked for another one.
    """

    returns = False  # what a mapping uses is frozen once the next one has begun

    def __init__(
        self, p: float = 1e-3, drop: float = 0.1, in_a_row: int = 2, lag: int = 10, probability: float = 0.99, grace: int = 20
    ) -> None:
        self.p, self.drop, self.in_a_row, self.lag, self.probability, self.grace = p, drop, in_a_row, lag, probability, grace
        self.levels: list[float] = []
        self.accepted: deque[Tensor] = deque(maxlen=lag)
        self.row = 0

    def news(self, learner: StreamLearner, batch: Batch) -> Tensor:
        """What no earlier mapping answers with confidence and at the level it is used to."""
        known = torch.zeros_like(batch.labels, dtype=torch.bool)
        for mapping, level in enumerate(self.levels[:-1]):
            known |= familiar(learner.logits(mapping, batch.inputs), self.probability, level)
        return ~known

    def verdict(self, learner: StreamLearner, batch: Batch) -> Verdict:
        """``new`` if the mapping in training is less sure of the batch than of the one before, several times in a row."""
        logits = learner.logits(learner.mappings - 1, batch.inputs)
        sure = surprise(logits)
        if len(self.accepted) == self.lag and learner.seen.step - learner.seen.starts[-1] >= self.grace:
            before = self.accepted[0]
            lost = float(sure.mean()) < (1 - self.drop) * float(before.mean())
            self.row = self.row + 1 if lost and welch(sure, before).p < self.p else 0
        if self.row:
            return "new" if self.row >= self.in_a_row else "wait"
        self.accepted.append(sure)
        level = float(logits.amax(-1).quantile(LOW_QUANTILE))
        self.levels[-1] += (MOMENTUM if self.levels[-1] else 1.0) * (level - self.levels[-1])
        return "known"

    def begun(self, learner: StreamLearner) -> None:
        """Nothing is known yet of what the new mapping is sure of."""
        self.accepted.clear()
        self.row = 0
        self.levels.append(0.0)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What it remembers: tensors, and what JSON can hold."""
        return {str(place): sure for place, sure in enumerate(self.accepted)}, {"levels": list(self.levels), "row": self.row}

    def restore(self, tensors: Tensors, facts: dict[str, Any]) -> None:
        """Goes on from :meth:`state`."""
        self.accepted = deque((tensors[str(place)] for place in range(len(tensors))), maxlen=self.lag)
        self.levels, self.row = list(facts["levels"]), facts["row"]
