"""Memory aware synapses (Aljundi et al., 2018): a weight matters by how much the outputs change with it."""

from collections.abc import Iterable
from dataclasses import dataclass

from clcore.hyper import knob
from clcore.methods.base import At, Batch, Tensors
from clcore.methods.penalties.fisher import sensitivity
from clcore.methods.penalties.penalty import Penalty, added


@dataclass(frozen=True)
class MASHyper:
    """Hyperparameters of MAS."""

    strength: float = knob(
        0.1, "lambda, weight of the penalty", low=0, packed=True, source="MAS, eq. 4; FACIL: 1, too stiff for SGD at .05",
        grid=(0.01, 0.1, 1.0, 10.0, 100.0, 400.0), search=(1e-3, 1e3), log=True,
    )  # fmt: skip
    output_norm: str = knob(
        "squared", "the norm of the outputs that is differentiated, squared or not", choices=("squared", "plain"),
        source="MAS, section 3.2; FACIL: plain",
    )  # fmt: skip
    keep: float = knob(
        1.0, "what is left of the earlier tasks' importance with each new task", low=0, high=1, packed=True,
        source="MAS's code: 1; FACIL: .5", levels=(0.5, 0.9, 1.0),
    )  # fmt: skip
    fresh: float = knob(
        1.0, "weight of the new task's importance", low=0, packed=True, source="MAS's code: 1; FACIL: .5", levels=(0.1, 0.5, 1.0)
    )


class MAS(Penalty):
    """lambda sum_i Omega_i (theta_i - theta*_i)^2, with Omega the mean over examples of |d ||f(x)||^2 / d theta_i| (MAS, eq. 2-5).

    f are the outputs before the softmax. Each example's gradient is taken by itself, as in the paper (its code sums batches first).
    """

    Hyper = MASHyper
    hyper: MASHyper

    def stiffness(self, memory: Tensors, hp: Tensors, at: At) -> Tensors:
        """*Packed.* 2 lambda Omega."""
        return self.important(memory, 2 * hp["strength"])

    def end_task(self, params: Tensors, memory: Tensors, hp: Tensors, at: At, batches: Iterable[Batch]) -> Tensors:
        """*Packed.* Adds the task's importance; labels play no part in it."""
        kept = super().end_task(params, memory, hp, at, batches)
        found = sensitivity(self.per_sample(params, memory, hp, at), batches, self.hyper.output_norm == "squared")
        found = {name: hp["fresh"] * omega for name, omega in self.whole(found, params).items()}
        return kept | added(memory, found, keep=hp["keep"])


METHOD = MAS
