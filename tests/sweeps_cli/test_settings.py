"""What the command line's words become: settings, the question, and what --set reaches."""

import pytest

from clcore import hyper
from clcore.errors import BadValue, UnknownName, UserError
from clcore.methods import METHODS
from clcore.training import Training
from sweeps.options import read_seeds
from sweeps.settings import Surroundings, assigned, benchmark_options, declarations, validated
from sweeps.trials import base_configuration


def settings(**values):
    return validated({"method": "hat", **values})


def test_set_reaches_hyperparameters_training_and_surroundings():
    said = assigned("hat", {"smax": "123.5", "epochs": "7", "dropout": "0.25", "restore_on_drop": "yes", "optimizer": "adam"})
    assert said.hyper == {"smax": 123.5}
    assert said.training == {"epochs": 7, "restore_on_drop": True, "optimizer": "adam"}
    assert said.surroundings == {"dropout": 0.25}
    assert type(said.training["epochs"]) is int


def test_what_set_says_is_in_the_configuration_and_nothing_else_moves():
    plain = base_configuration(settings())
    said = {"smax": "50", "lr": "0.5", "validation_fraction": "0.3", "input_dropout": "0.1"}
    changed = base_configuration(settings(assign=said))
    assert changed.hyper == {**plain.hyper, "smax": 50.0}
    assert changed.training == {**plain.training, "lr": 0.5}
    assert changed.benchmark["options"] == {**plain.benchmark["options"], "validation_fraction": 0.3}
    assert changed.network == {**plain.network, "input_dropout": 0.1}


def test_a_reference_takes_training_and_surroundings_but_no_hyperparameters():
    asked = settings(assign={"smax": "50", "epochs": "3", "dropout": "0.5"})
    joint = base_configuration(asked, "joint")
    assert (joint.method, joint.hyper) == ("joint", {})
    assert (joint.training["epochs"], joint.network["dropout"]) == (3, 0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", "2.5"), ("epochs", "0"), ("epochs", "many"), ("epochs", "inf"), ("lr", "-1"), ("lr", "nan"), ("dropout", "1"),
        ("restore_on_drop", "maybe"), ("optimizer", "sdg"), ("smax", ""), ("validation", "some"), ("lr_factor", "1"),
    ],
)  # fmt: skip
def test_values_are_typed_and_ranged(key, value):
    with pytest.raises(BadValue, match=key):
        assigned("hat", {key: value})


def test_an_unknown_key_shows_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'epochs'"):
        assigned("hat", {"epoch": "3"})
    with pytest.raises(UnknownName):
        assigned("tfm", {"smax": "3"})  # HAT's


def test_every_key_has_one_owner():
    owners = declarations("hat")
    assert owners["smax"] is METHODS.get("hat").Hyper
    assert owners["lr"] is Training
    assert owners["dropout"] is Surroundings


@pytest.mark.parametrize(
    "values",
    [
        {"trials": 0}, {"trials": -3}, {"tasks": 0}, {"classes_per_task": 0}, {"cpus": 0}, {"workers": 0}, {"time_budget": 0},
        {"gpus_per_trial": -1}, {"pack": "0"}, {"pack": "some"}, {"pack": "²"}, {"executor": "rai"}, {"name": "a/b"},
        {"name": ".hidden"}, {"name": ""}, {"unknown": 1}, {"gpus_per_trial": float("inf")}, {"memory": float("inf")},
        {"time_budget": float("inf")}, {"time_budget": float("nan")}, {"tracking_uri": ""},
    ],
)  # fmt: skip
def test_bad_options_are_user_errors(values):
    with pytest.raises(UserError) as error:
        settings(**values)
    assert "\n" not in str(error.value)


def test_benchmark_options_carry_every_option():
    said = settings(tasks=3, classes_per_task=2, larger_first_task=4, scenario="class-il")
    options = benchmark_options(
        said, Surroundings(validation="none", validation_fraction=0.2, shuffle_classes=True, normalise=False)
    )
    assert vars(options) == {
        "tasks": 3, "classes_per_task": 2, "larger_first_task": 4, "scenario": "class-il", "validation": "none",
        "validation_fraction": 0.2, "shuffle_classes": True, "normalise": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"trials": 3}, {"cpus": 2}, {"home": "elsewhere"}, {"workers": 2}, {"pack": "4"}, {"executor": "inline"},
        {"time_budget": 9.0}, {"data_dir": "data"}, {"tracking_uri": "http://x"}, {"device": "cpu"}, {"address": "auto"},
        {"references": True},
    ],
)  # fmt: skip
def test_how_and_where_do_not_name_another_sweep(values):
    assert settings(**values).sweep_name() == settings().sweep_name()
    assert settings(**values).question() == settings().question()


@pytest.mark.parametrize(
    "values",
    [
        {"method": "tfm"}, {"space": "tpe"}, {"benchmark": "permuted-digits"}, {"network": "mlp:9"}, {"scenario": "class-il"},
        {"tasks": 3}, {"classes_per_task": 3}, {"larger_first_task": 4}, {"seeds": (1,)}, {"seeds": (0, 1)},
        {"assign": {"lr": "0.1"}},
    ],
)  # fmt: skip
def test_what_decides_results_names_another_sweep(values):
    assert settings(**values).sweep_name() != settings().sweep_name()


def test_the_order_of_set_does_not_matter():
    one = settings(assign={"lr": "0.1", "epochs": "3"})
    other = settings(assign={"epochs": "3", "lr": "0.1"})
    assert one.sweep_name() == other.sweep_name()


def test_a_files_content_is_part_of_the_question(tmp_path):
    space, network = tmp_path / "s.toml", tmp_path / "net.py"
    space.write_text("[values]\nc = [1]")
    network.write_text("NETWORK = None")
    asked = settings(space=str(space), network=f"{network}:64")
    first = asked.sweep_name()
    assert first.startswith("hat-s-")
    space.write_text("[values]\nc = [2]")
    second = asked.sweep_name()
    network.write_text("NETWORK = 1")
    assert len({first, second, asked.sweep_name()}) == 3


def test_a_given_name_is_the_name():
    assert settings(name="mine.v2_a-b").sweep_name() == "mine.v2_a-b"


def test_settings_survive_json():
    said = settings(assign={"lr": "0.1"}, seeds=(3, 5), home="h", time_budget=2.5)
    assert validated(said.model_dump(mode="json")) == said


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("1", (0,)), ("3", (0, 1, 2)), ("4,7", (4, 7)), ("4,", (4,)), (" 2 , 1 ", (2, 1)), ("5,5,6", (5, 6)), ("0,", (0,)),
        (",4", (4,)),
    ],
)  # fmt: skip
def test_seeds(text, seeds):
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "a", ",", "1,-2", "1,b", "²", "1;2"])
def test_bad_seeds(text):
    with pytest.raises(BadValue, match="--seeds"):
        read_seeds(text)


@pytest.mark.parametrize("name", METHODS.names())
def test_no_method_reuses_the_name_of_a_setting(name):
    assert set(hyper.knobs(METHODS.get(name).Hyper)) <= set(declarations(name))
