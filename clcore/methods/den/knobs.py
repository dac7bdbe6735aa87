"""The hyperparameters of DEN."""

from dataclasses import dataclass

from clcore.hyper import knob


@dataclass(frozen=True)
class DENHyper:
    """Hyperparameters of DEN; thresholds of DEN's code are per step, at a learning rate of .001."""

    first: float = knob(
        0.6, "share of each layer that the first task has; the rest is there to grow into", low=0.01, high=1, packed=True,
        source="here: a network is made at its largest size", search=(0.3, 0.9),
    )  # fmt: skip
    grow: int = knob(
        10, "k, units that each layer may grow by, and units that may be split, at each task", low=0, packed=True,
        source="DEN, section 3: k; DEN's code: 10", search=(2, 30),
    )  # fmt: skip
    tau: float = knob(
        0.01, "a task whose training loss stays above it makes the network grow", low=0, packed=True,
        source="DEN, algorithm 1; DEN's code: .01", grid=(0.01, 0.05, 0.2), search=(1e-3, 1), log=True,
    )  # fmt: skip
    sigma: float = knob(
        0.05, "a unit whose incoming weights move further is split", low=0, packed=True, source="DEN, algorithm 4; DEN's code: .05",
        grid=(0.02, 0.05, 0.2), search=(0.01, 1), log=True,
    )  # fmt: skip
    l1: float = knob(
        0.01, "mu, sparsity of all that is trained", low=0, packed=True, source="DEN, eq. 2, 3 and 5; DEN's code: 1e-5 a step",
        grid=(0.001, 0.01, 0.1), search=(1e-4, 0.1), log=True,
    )  # fmt: skip
    l2: float = knob(
        1e-4,
        "weight decay of all that is trained",
        low=0,
        packed=True,
        source="DEN, eq. 4; DEN's code: 1e-4",
        levels=(0.0, 1e-5, 1e-4, 1e-3),
    )
    group: float = knob(
        1.0, "gamma, group sparsity of new units", low=0, packed=True, source="DEN, eq. 5; DEN's code: 1e-3 a step",
        search=(0.01, 10), log=True,
    )  # fmt: skip
    hold: float = knob(
        0.5, "lambda, how hard weights are held near what they were before the task", low=0, packed=True,
        source="DEN, eq. 6; DEN's code: .5", search=(1e-3, 10), log=True,
    )  # fmt: skip
