"""The statistics of studies against hand computations, a textbook and independent ways to the same number."""

import itertools
import math
import random

import numpy as np
import pytest
from sweep_kit import stored

from sweeps.search import Study
from sweeps.spaces import Range, Space
from sweeps.studies.anova import two_way
from sweeps.studies.answers import Figures
from sweeps.studies.grid import best, grid_of, main_effects, paired, start, within
from sweeps.studies.paired import wilcoxon
from sweeps.studies.pareto import front

#: Montgomery, Design and Analysis of Experiments: life of batteries by material (rows) and temperature, four of each.
BATTERIES = [
    [[130, 155, 74, 180], [34, 40, 80, 75], [20, 70, 82, 58]],
    [[150, 188, 159, 126], [136, 122, 106, 115], [25, 70, 58, 45]],
    [[138, 110, 168, 160], [174, 120, 150, 139], [96, 104, 82, 60]],
]


def figures(accuracy, validation=None, **others):
    blank = dict.fromkeys(("during", "forgetting", "bwt", "rho", "seconds", "bytes", "learning_bytes"), math.nan)
    return Figures(**{**blank, "accuracy": accuracy, "validation": accuracy if validation is None else validation, **others})


def grid(table, default=(0, 0), knobs=None):
    """A grid of two knobs from nested lists: rows, columns, seeds; None is missing."""
    knobs = knobs or {"a": tuple(range(len(table))), "b": tuple(range(len(table[0])))}
    places = {name: {level: place for place, level in enumerate(levels)} for name, levels in knobs.items()}

    def find(values, seed):
        i, j = (places[name][values[name]] for name in knobs)
        found = table[i][j][seed]
        return None if found is None else figures(found)

    return grid_of(knobs, range(len(table[0][0])), default, find)


def by_least_squares(values, columns):
    """What a linear model with these columns does not explain: residual sum of squares."""
    flat = values.reshape(-1)
    solution = np.linalg.lstsq(columns, flat, rcond=None)[0]
    return float(((flat - columns @ solution) ** 2).sum())


def test_anova_gives_the_textbook_table():
    first, second, both, rest = two_way(np.array(BATTERIES, dtype=float), ("material", "temperature"))
    for part, squares, freedom in ((first, 10683.72, 2), (second, 39118.72, 2), (both, 9613.78, 4), (rest, 18230.75, 27)):
        assert part.squares == pytest.approx(squares, abs=0.01)
        assert part.freedom == freedom
    assert [round(part.f, 2) for part in (first, second, both)] == [7.91, 28.97, 3.56]
    assert [round(part.p, 4) for part in (first, second, both)] == [0.0020, 0.0000, 0.0186]
    assert [part.name for part in (first, second, both, rest)] == [
        "material", "temperature", "material x temperature", "seed (residual)",
    ]  # fmt: skip
    assert sum(part.share for part in (first, second, both, rest)) == pytest.approx(1)
    assert math.isnan(rest.f)
    assert math.isnan(rest.p)


def test_anova_is_what_nested_linear_models_explain():
    draw = np.random.default_rng(3)
    a, b, n = 3, 4, 2
    values = draw.normal(size=(a, b, n)) + draw.normal(size=(a, 1, 1)) * 3
    i, j, _ = (index.reshape(-1) for index in np.indices(values.shape))
    one = np.ones((values.size, 1))
    rows, columns = np.eye(a)[i], np.eye(b)[j]
    cells = np.eye(a * b)[i * b + j]
    levels = [by_least_squares(values, np.hstack(parts)) for parts in ([one], [one, rows], [one, rows, columns], [one, cells])]
    found = [part.squares for part in two_way(values, ("a", "b"))]
    assert found == pytest.approx([levels[0] - levels[1], levels[1] - levels[2], levels[2] - levels[3], levels[3]])


def test_anova_of_one_seed_and_of_nothing_that_varies():
    lone = two_way(np.array([[[1.0], [2.0]], [[3.0], [7.0]]]), ("a", "b"))
    assert [part.freedom for part in lone] == [1, 1, 1, 0]
    assert all(math.isnan(part.f) for part in lone)
    assert [part.squares for part in lone] == pytest.approx([12.25, 6.25, 2.25, 0])
    assert all(math.isnan(part.share) for part in two_way(np.zeros((2, 2, 2)), ("a", "b")))


def test_anova_takes_no_gaps():
    with pytest.raises(ValueError, match="full grid"):
        two_way(np.array([[[1.0], [math.nan]], [[3.0], [7.0]]]), ("a", "b"))


def signed_ranks_by_hand(differences):
    """Two-sided p of the signed-rank statistic by all 2^n signs; no ties, no zeros."""
    ranks = [sorted(map(abs, differences)).index(abs(d)) + 1 for d in differences]
    smaller = min(sum(r for r, d in zip(ranks, differences, strict=True) if (d > 0) == sign) for sign in (True, False))
    total = sum(ranks)
    signs = itertools.product((0, 1), repeat=len(ranks))
    sums = [sum(r for r, s in zip(ranks, picked, strict=True) if s) for picked in signs]
    return sum(value <= smaller or value >= total - smaller for value in sums) / len(sums)


@pytest.mark.parametrize("n", [3, 5, 7])
def test_wilcoxon_is_the_count_over_all_signs(n):
    draw = random.Random(n)
    one, other = ({seed: draw.random() for seed in range(n)} for _ in range(2))
    p, pairs = wilcoxon(one, other)
    assert pairs == n
    assert p == pytest.approx(signed_ranks_by_hand([one[s] - other[s] for s in range(n)]))


def test_wilcoxon_pairs_by_seed():
    assert wilcoxon({0: 1.0, 1: 2.0, 5: 3.0}, {1: 1.0, 5: 1.0, 7: 9.0}) == (0.5, 2)
    assert wilcoxon({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}) == (1.0, 2)
    p, pairs = wilcoxon({0: 1.0, 1: math.nan}, {1: 1.0})
    assert math.isnan(p)
    assert pairs == 0
    assert wilcoxon({s: float(s) + 1 for s in range(5)}, dict.fromkeys(range(5), 0.0))[0] == 2 / 2**5


def test_main_effects_average_the_other_knob_seed_by_seed():
    found = grid([[[10, 20], [30, 60]], [[1, 2], [3, 8]]])
    low, high = main_effects(found, "a", "accuracy")
    assert low.mean == pytest.approx((20 + 40) / 2)
    assert low.half == pytest.approx(12.7062 * (20 / math.sqrt(2)) / math.sqrt(2))  # t of one degree of freedom, 20 and 40
    assert high.mean == pytest.approx((2 + 5) / 2)
    first, second = main_effects(found, "b", "accuracy")
    assert (first.mean, second.mean) == (pytest.approx((5.5 + 11) / 2), pytest.approx((16.5 + 34) / 2))
    assert {effect.n for effect in (low, high, first, second)} == {2}


def test_a_seed_counts_at_a_level_once_all_its_cells_are_there():
    found = grid([[[10, 20], [30, None]], [[1, 2], [3, 8]]])
    low, high = main_effects(found, "a", "accuracy")
    assert (low.mean, low.n) == (20, 1)
    assert (high.mean, high.n) == (pytest.approx(3.5), 2)


def test_what_is_good_what_is_best_and_where_to_start():
    # the best cell (0, 2) is a lucky one in a bad row; row 1 does better whatever b is, and b = 0 whatever a is
    found = grid([[[50], [40], [93]], [[92], [91], [70]]], default=(0, 1))
    assert best(found) == (0, 2)
    assert start(found) == (1, 2)  # means of b: 71, 65.5, 81.5
    assert within(found, 1) == pytest.approx(2 / 6)
    assert within(found, 5) == pytest.approx(3 / 6)
    assert within(found, 100) == 1
    assert paired(found, best(found), found.default)[0] == 53


def test_differences_are_paired_by_seed():
    found = grid([[[None, 10, 30], [50, 11, 32]]])
    mean, half, n = paired(found, (0, 1), (0, 0))
    assert (mean, n) == (1.5, 2)
    assert half == pytest.approx(12.7062 * math.sqrt(0.5) / math.sqrt(2))


def test_nothing_is_chosen_without_validation_data():
    found = grid_of({"a": (1, 2)}, [0], (0,), lambda values, seed: figures(90.0, math.nan))
    assert best(found) is None
    assert start(found) is None


def test_the_front_is_what_no_other_point_beats():
    draw = random.Random(1)
    points = [(draw.randrange(12), draw.randrange(12)) for _ in range(60)]
    kept = {
        i for i, (size, good) in enumerate(points)
        if not any(s <= size and g >= good and (s < size or g > good) for s, g in points)
    }  # fmt: skip
    assert set(front(points)) == kept
    assert [points[i] for i in front(points)] == sorted(points[i] for i in kept)
    assert front([(1, math.nan), (5, 2), (5, 2), (6, 2)]) == [1, 2]


def test_nsga_ii_is_told_both_objectives_and_finds_the_front(tmp_path):
    """Accuracy x and size x + y: the front is y = 0, which no search of accuracy alone would look for."""
    path = tmp_path / "study.log"
    search = Study(Space("nsga2", ranges={"x": Range(0.0, 1.0), "y": Range(0.0, 1.0)}), path, 0, 60)
    seen = []
    while batch := search.ask(12):
        for number, values in batch:
            seen.append(values["y"])
            search.tell(number, values["x"], values["x"] + values["y"])
    assert len(seen) == 60
    assert np.mean(seen[24:]) < 0.75 * np.mean(seen[:12])  # the first generation is drawn, as random search would go on
    assert all(trial.values == [trial.params["x"], trial.params["x"] + trial.params["y"]] for trial in stored(path))


def test_a_configuration_without_both_has_failed(tmp_path):
    path = tmp_path / "study.log"
    search = Study(Space("nsga2", ranges={"x": Range(0.0, 1.0)}), path, 0, 3)
    (first, _), (second, _), (third, _) = search.ask(3)
    search.tell(first, 0.5, math.nan)
    search.tell(second, None)
    search.tell(third, 0.5, 100.0)
    assert [trial.state.name for trial in stored(path)] == ["FAIL", "FAIL", "COMPLETE"]
