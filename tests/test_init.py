"""Initial weights: torch's default or Xavier uniform, for layers, heads and the features TFM adds."""

import math

from clcore import networks
from clcore.benchmarks import BenchmarkOptions, build
from clcore.methods import At
from clcore.quick import make_learner
from clcore.report import Report


def learner(method, init, members=({},)):
    benchmark = build("split-digits", BenchmarkOptions(tasks=2), seed=0)
    network = networks.build("mlp:40-30", benchmark.input_shape, 0, networks.NetworkOptions(init=init))
    return make_learner(method, members, benchmark, network, {"epochs": 1})


def test_xavier_layers_stay_within_the_bound_and_fill_it():
    memory = learner("finetune", "xavier").memory
    for name, fan_in, fan_out in (("layers.0.weight", 64, 40), ("layers.1.weight", 40, 30)):
        bound = math.sqrt(6 / (fan_in + fan_out))
        largest = memory[name].abs().max().item()
        assert 0.97 * bound < largest <= bound
        assert bound > 1.3 / math.sqrt(fan_in)  # torch's default would stay below 1/sqrt(fan_in)


def test_heads_are_drawn_like_the_layers():
    for init, bound in (("default", 1 / math.sqrt(30)), ("xavier", math.sqrt(6 / (30 + 2)))):
        made = learner("finetune", init)
        drawn = made.begin(at=_first(), memory=made.memory, hp=made.hp, name="train")[2]["head.weight"]
        assert 0.85 * bound < drawn.abs().max().item() <= bound


def test_tfm_draws_its_first_features_with_the_present_fan_in_and_fan_out():
    made = learner("tfm", "xavier", [{"p1": 0.5}])
    params = made.begin(at=_first(), memory=made.memory, hp=made.hp, name="train")[2]
    largest = params["layers.1.weight"].abs().max().item()  # 20 inputs, 15 outputs at half the width
    bound = math.sqrt(6 / (20 + 15))
    assert 0.9 * bound < largest <= bound
    assert params["layers.1.weight"].shape == (1, 15, 20)


def test_an_initialisation_changes_what_is_learned_but_both_learn():
    ends = {}
    for init in ("default", "xavier"):
        *_, last = (said for said in learner("finetune", init).run() if isinstance(said, Report))
        ends[init] = last.members[0].test
    assert ends["default"] != ends["xavier"]
    assert all(0 <= accuracy <= 1 for end in ends.values() for accuracy in end)


def _first():
    return At(0, "train", 1)
