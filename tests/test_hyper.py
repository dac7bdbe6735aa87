"""Hyperparameters: types, ranges, and what is said of a value that cannot be."""

import math
from dataclasses import dataclass

import pytest

from clcore import hyper
from clcore.errors import BadValue, UnknownName
from clcore.methods import METHODS
from clcore.training import Training


@dataclass(frozen=True)
class Declared:
    rate: float = hyper.knob(0.5, "a rate", low=0, high=1, packed=True)
    count: int = hyper.knob(3, "a count", low=1)
    kind: str = hyper.knob("a", "a kind", choices=("a", "b"))
    on: bool = hyper.knob(False, "a switch", packed=True)
    free: float = hyper.knob(0.0, "any number")
    maybe: int | None = hyper.knob(None, "a count or none", low=2)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("rate", "0.25", 0.25),
        ("rate", 1, 1.0),
        ("rate", "1e-3", 0.001),
        ("count", "7", 7),
        ("count", "1e2", 100),
        ("count", 4.0, 4),
        ("kind", "b", "b"),
        ("on", "True", True),
        ("on", "no", False),
        ("on", 1, True),
        ("on", 0.0, False),
        ("free", "-12.5", -12.5),
        ("maybe", "none", None),
        ("maybe", None, None),
        ("maybe", "2", 2),
    ],
)
def test_values_that_can_be(name, value, expected):
    result = hyper.convert(Declared, name, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rate", "1.5", "rate = '1.5' is not allowed: it must be a number from 0 to 1."),
        ("rate", -0.1, "a number from 0 to 1"),
        ("rate", "half", "a number from 0 to 1"),
        ("rate", "nan", "a number from 0 to 1"),
        ("rate", True, "a number from 0 to 1"),
        ("rate", None, "a number from 0 to 1"),
        ("rate", [0.5], "a number from 0 to 1"),
        ("count", "2.5", "count = '2.5' is not allowed: it must be a whole number of at least 1."),
        ("count", 0, "a whole number of at least 1"),
        ("count", "inf", "a whole number of at least 1"),
        ("count", "nan", "a whole number of at least 1"),
        ("count", 10**400, "a whole number of at least 1"),
        ("count", True, "a whole number of at least 1"),
        ("count", "", "a whole number of at least 1"),
        ("kind", "c", "kind = 'c' is not allowed: it must be one of a, b."),
        ("on", "maybe", "on = 'maybe' is not allowed: it must be true or false."),
        ("on", 2, "true or false"),
        ("free", "inf", "free = 'inf' is not allowed: it must be a number."),
        ("free", math.nan, "a number"),
        ("maybe", 1, "a whole number of at least 2"),
    ],
)
def test_values_that_cannot_be(name, value, message):
    with pytest.raises(BadValue) as caught:
        hyper.convert(Declared, name, value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown hyperparameter or setting 'rat'\. Did you mean 'rate'\?"):
        hyper.build(Declared, {"rat": 1})


def test_build_checks_each_and_keeps_defaults():
    built = hyper.build(Declared, {"count": "9"})
    assert built == Declared(count=9)
    with pytest.raises(BadValue):
        hyper.build(Declared, {"count": "9", "rate": 2})


def test_what_is_packed_and_the_defaults():
    assert list(hyper.packed_names(Declared)) == ["rate", "on"]
    assert hyper.defaults(Declared) == {"rate": 0.5, "count": 3, "kind": "a", "on": False, "free": 0.0, "maybe": None}


@pytest.mark.parametrize("declared", [Training, *(METHODS.get(name).Hyper for name in METHODS.names())])
def test_what_a_declaration_offers_is_allowed(declared):
    for name, knob in hyper.knobs(declared).items():
        for value in (hyper.defaults(declared)[name], *knob.grid, *knob.choices, *(knob.search or ())):
            assert hyper.convert(declared, name, value) == value
        assert not (knob.log and knob.search) or knob.search[0] > 0
        assert knob.search is None or knob.search[0] < knob.search[1]


def test_the_papers_values():
    """methods.md 0.2, 1.1, 7: what a person gets who says nothing."""
    training = Training()
    assert (training.optimizer, training.lr, training.batch_size, training.epochs) == ("sgd", 0.05, 64, 200)
    assert (training.patience, training.lr_factor, training.lr_min, training.weight_decay) == (5, 3.0, 1e-4, 0.0)
    hat, tfm = METHODS.get("hat"), METHODS.get("tfm")
    assert (hat.Hyper().smax, hat.Hyper().c, hat.clip) == (400.0, 0.75, 10000)
    assert hyper.knobs(hat.Hyper)["smax"].grid == (25, 50, 100, 200, 400, 800)
    assert hyper.knobs(hat.Hyper)["c"].grid == (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 4)
    grids = [hyper.knobs(tfm.Hyper)[name].grid for name in ("p1", "growth", "fn")]
    assert grids == [(0.25, 0.40, 0.55, 0.70), (0.02, 0.05, 0.07), (True, False)]
