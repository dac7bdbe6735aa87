"""Which hyperparameters had to do with being among the best: Optuna's PED-ANOVA over a sweep's configurations."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trackers.labels import show
from trackers.pictures_parallel import LOG_FACTOR, is_number
from trackers.summary import Configuration

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

#: Of the configurations, the best that importance is about; five of them at least, as Optuna advises.
QUANTILE = 0.25
NEEDED = 20
#: A key with at most so many values is taken as a choice among them, with more as a range.
_CHOICES = 8


def importances(found: Sequence[Configuration], keys: Sequence[str]) -> dict[str, float] | str:
    """The share of each hyperparameter, the largest first (Watanabe et al. 2023, PED-ANOVA), or a sentence why it is not known.

    Args:
        found: the configurations; those without validation accuracy are left out.
        keys: what varies between them; a key that some have not is conditional.

    Returns:
        key -> share in [0, 1], adding up to 1, or the reason.
    """
    scored = [(c, c.mean("validation")) for c in found]
    scored = [(c, score) for c, score in scored if math.isfinite(score)]
    if len(scored) < NEEDED:
        return f"It takes {NEEDED} configurations with a validation accuracy to tell; there are {len(scored)}."
    ranked = sorted((score for _, score in scored), reverse=True)
    if ranked[math.ceil(QUANTILE * len(ranked)) - 1] == ranked[-1]:
        return "Too many configurations score the same: the best quarter cannot be told from the rest."
    spaces = {key: _distribution([c.choices[key] for c, _ in scored if key in c.choices]) for key in keys}
    spaces = {key: space for key, space in spaces.items() if not space.single()}
    if not spaces:
        return "Nothing varies between the configurations."
    return _ped_anova(scored, spaces)


def _ped_anova(scored: Sequence[tuple[Configuration, float]], spaces: dict[str, "BaseDistribution"]) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    for configuration, score in scored:
        own = {key: space for key, space in spaces.items() if key in configuration.choices}
        values = {key: _value(configuration.choices[key], space) for key, space in own.items()}
        study.add_trial(optuna.trial.create_trial(params=values, distributions=own, value=score))
    with warnings.catch_warnings():  # of regimes with a single trial, which count nothing
        warnings.simplefilter("ignore")
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=QUANTILE)))


def _distribution(values: Sequence[Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    distinct = list(dict.fromkeys(show(value) for value in values))
    if len(distinct) <= _CHOICES or not all(map(is_number, values)):
        return CategoricalDistribution(sorted(distinct))
    low, high = float(min(values)), float(max(values))
    return FloatDistribution(low, high, log=low > 0 and high / low > LOG_FACTOR)


def _value(value: Any, space: "BaseDistribution") -> Any:
    return show(value) if hasattr(space, "choices") else float(value)
