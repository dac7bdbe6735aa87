"""RMN's hyperparameters."""

from dataclasses import dataclass

from clcore.hyper import knob
from clcore.methods.rmn.inference import RULES


@dataclass(frozen=True)
class RMNHyper:
    """Hyperparameters of RMN; where the paper gives no value, the default was chosen here."""

    map_rate: float = knob(
        1.0, "factor on the mappings' learning rate (paper: 1 on MNIST, .5 on Omniglot, 10 on CIFAR)", low=0, packed=True,
        source="RMN, suppl. 3.2", grid=(0.5, 1.0, 3.0, 10.0), search=(0.1, 20), log=True,
    )  # fmt: skip
    mu: float = knob(
        0.05, "mask entries of at most this are pruned once the loss has converged", low=0, high=0.499, packed=True,
        source="RMN, algorithm 1; suppl. 3.2: .05 and .01", grid=(0.01, 0.05, 0.2), search=(1e-3, 0.4), log=True,
    )  # fmt: skip
    beta: float = knob(
        40.0, "tightness of the pseudo-round, of each layer; its first value where it is learned (loose: rounding costs accuracy)",
        low=1, packed=True, source="RMN, eq. 7; suppl. 2.2: from 80 on no difference", search=(5, 200), log=True,
    )  # fmt: skip
    learn_beta: bool = knob(
        True, "learn beta, one a layer and anew in each task (fixed at 80: start mappings near .5, e.g. map_scale .01)",
        source="RMN, section 4",
    )  # fmt: skip
    lambda_l1: float = knob(
        0.0, "weight of the mean mask: sparsity", low=0, packed=True, source="RMN, section 5.1; suppl. 2.3: not needed",
        grid=(0.0, 0.001, 0.01, 0.1), search=(1e-6, 0.1), log=True,
    )  # fmt: skip
    lambda_overlap: float = knob(
        0.0, "weight of the mean mask on weights that earlier tasks use: separation", low=0, packed=True,
        source="RMN, section 5.1", search=(1e-6, 0.1), log=True,
    )  # fmt: skip
    map_loc: float = knob(
        0.45, "where initial mappings lie (.45: three masks in five start open; higher: the network fills sooner)", low=0, high=1,
        packed=True, source="resolved here (RMN: a clipped, skewed normal)", levels=(0.3, 0.45, 0.6),
    )  # fmt: skip
    map_scale: float = knob(
        0.1, "scale of the initial mappings", low=0, packed=True, source="resolved here", levels=(0.05, 0.1, 0.2)
    )
    map_skew: float = knob(
        4.0,
        "skew of the initial mappings; > 0: masks start mostly open",
        packed=True,
        source="resolved here",
        levels=(0.0, 4.0, 8.0),
    )
    straight_through: float = knob(
        0.0,
        "last share of the epochs that trains with rounded masks, as at test",
        low=0,
        high=1,
        source="resolved here",
        levels=(0.0, 0.5, 1.0),
    )
    multi_head: bool = knob(
        False, "a head a task, without a mask, in place of one head that is masked and frozen like any layer",
        source="RMN, section 5.1: strict continual learning has none",
    )  # fmt: skip
    inference: str = knob(
        "max-logit", "what makes a task the likeliest where it is not given", choices=RULES, source="RMN, algorithm 2, line 22"
    )
    noise: str = knob(
        "auto", "learn to answer Gaussian noise with nothing; auto: where tasks are to be inferred",
        choices=("auto", "on", "off"), source="RMN, algorithm 2, lines 14-17",
    )  # fmt: skip
    noise_weight: float = knob(
        1.0, "weight of the noise loss", low=0, packed=True, source="RMN, algorithm 2: a step of its own", levels=(0.1, 1.0, 10.0)
    )
    switch_p: float = knob(
        1e-3, "task-free: largest p-value of a loss of confidence that may be a new task", low=0, high=1,
        source="RMN, algorithm 2, line 7: Welch's t-test; the value is ours", levels=(1e-4, 1e-3, 1e-2),
    )  # fmt: skip
    switch_drop: float = knob(
        0.1, "task-free: least loss of confidence that may be a new task, as a share (sure networks vary little)", low=0, high=1,
        source="resolved here", levels=(0.05, 0.1, 0.2),
    )  # fmt: skip
    switch_lag: int = knob(
        10, "task-free: batches between the newest and the one it is compared with; > 1 sees a slow change", low=1,
        source="resolved here", levels=(5, 10, 20),
    )  # fmt: skip
    switch_in_a_row: int = knob(
        2, "task-free: such batches in a row make a new task", low=1, source="resolved here", levels=(1, 2, 3)
    )
    switch_grace: int = knob(
        20,
        "task-free: batches after a new mapping began in which no other begins",
        low=0,
        source="resolved here",
        levels=(10, 20, 40),
    )
    switch_probability: float = knob(
        0.99, "task-free: what an earlier mapping is this sure of (and loud about) is not learned again", low=0, high=1,
        source="RMN, section 5.2.1; the value is ours", levels=(0.9, 0.99, 0.999),
    )  # fmt: skip
