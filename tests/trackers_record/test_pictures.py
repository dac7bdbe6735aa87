import math
import re

import numpy as np
import pytest
import torch
from fake_sweep import FakeSweep, item

from clcore.masks import Mask
from sweeps.importance import importances
from trackers import pictures_kit as kit
from trackers.compare import overlap
from trackers.labels import varying_in
from trackers.pictures import draw_curves, draw_fit, draw_inference, draw_matrix, draw_samples
from trackers.pictures_parallel import MOST_AXES, draw_parallel, scale_of
from trackers.pictures_sweep import draw_best_so_far, draw_cost, draw_importance
from trackers.pictures_trial import draw_capacity, draw_overlap, draw_progress
from trackers.record import load
from trackers.summary import Configuration, Final, configurations

PNG = b"\x89PNG\r\n"


@pytest.fixture
def drawn(monkeypatch):
    """The figures in place of files."""
    figures = []
    monkeypatch.setattr(kit, "save", lambda made, path: figures.append(made))
    return figures


def lines(axes):
    """label -> (x, y) of the lines with a name."""
    return {line.get_label(): line.get_data() for line in axes.lines if not line.get_label().startswith("_")}


def labels(figure):
    return [text for axes in figure.axes for text in (axes.get_xlabel(), axes.get_ylabel()) if text]


def unit(*on, width=8):
    return Mask("unit", torch.tensor([place in on for place in range(width)]))


def some_trial(tmp_path, tasks=5, **changes):
    fake = FakeSweep(tmp_path / "s", tasks=tasks)
    fake.sweep()
    one = item(0)
    fake.pack("p", [one])
    fake.start("p")
    for seen in range(tasks + 1):
        fake.task("p", seen, [fake.member(one["trial"], seen, **changes)])
    fake.done(one["trial"], "p")
    return load(tmp_path / "s").trials[one["trial"]]


def configuration(number, score, **choices):
    final = Final(f"t{number}", 0, score, score, 0.0, 1.0, 100.0)
    return Configuration(f"c{number}", "tfm", choices, [final])


@pytest.mark.parametrize("tasks", [1, 5, 40])
def test_matrix(tmp_path, tasks):
    matrix = torch.rand(tasks + 1, tasks, dtype=torch.float64)
    matrix[0] = math.nan
    draw_matrix(tmp_path / "m.png", matrix, "tfm growth=0.05 s0 · 3fa2 " * 4)
    assert (tmp_path / "m.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("tasks", [2, 40])
def test_inference(tmp_path, tasks):
    draw_inference(tmp_path / "i.png", torch.eye(tasks), "tasks inferred")
    assert (tmp_path / "i.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (3, 3, 8, 6)])
def test_samples(tmp_path, shape):
    tasks, *image = shape
    draw_samples(tmp_path / "s.png", torch.rand(tasks, 4, *image))
    assert (tmp_path / "s.png").read_bytes().startswith(PNG)


def test_fit(tmp_path):
    draw_fit(tmp_path / "f.png", [[[0.0, 1.0], [0.0, 1.0], [0.5, 0.5]]] * 7, "curves")
    assert (tmp_path / "f.png").read_bytes().startswith(PNG)


def test_matrix_of_nothing(tmp_path):
    draw_matrix(tmp_path / "m.png", torch.full((3, 2), math.nan, dtype=torch.float64), "x")


@pytest.mark.parametrize(("configs", "seeds"), [(0, 1), (1, 1), (12, 2)])
def test_curves(tmp_path, configs, seeds):
    fake = FakeSweep(tmp_path, tasks=3)
    fake.sweep()
    for seed in range(seeds if configs else 0):
        fake.whole_pack(f"p{seed}", [item(number, seed) for number in range(configs)])
    draw_curves(tmp_path / "c.png", load(tmp_path))
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)


def test_many_curves_are_one_grey_line(tmp_path, drawn):
    fake = FakeSweep(tmp_path, tasks=3)
    fake.sweep()
    fake.whole_pack("p", [item(number) for number in range(14)])
    draw_curves(tmp_path / "c.png", load(tmp_path))
    found = lines(drawn[0].axes[0])
    assert len(found) == 11
    grey = found["4 more"][1]
    assert [len(part) for part in np.split(grey, np.flatnonzero(np.isnan(grey)))] == [3, 4, 4, 4, 1]


def test_curves_without_validation_data_and_with_gaps(tmp_path):
    fake = FakeSweep(tmp_path, tasks=3)
    fake.sweep()
    one = item(0)
    fake.pack("p", [one])
    for seen in range(4):
        fake.task("p", seen, [fake.member(one["trial"], seen, validation=None, test=[0.5, math.nan, 0.5])])
    fake.done(one["trial"], "p")
    draw_curves(tmp_path / "c.png", load(tmp_path))


def test_progress_shows_averages_and_what_was_lost(tmp_path, drawn):
    trial = some_trial(tmp_path)
    draw_progress(tmp_path / "p.png", trial, "t")
    upper, lower = drawn[0].axes
    matrix = trial.test.numpy()
    found = lines(upper)
    assert found["average, test"][1] == pytest.approx([100 * matrix[t, :t].mean() for t in range(1, 6)])
    assert found["average, validation"][1] == pytest.approx([100 * (matrix[t, :t] - 0.01).mean() for t in range(1, 6)])
    lost = [0.0] + [100 * np.mean([matrix[u + 1, u] - matrix[t, u] for u in range(t - 1)]) for t in range(2, 6)]
    assert lower.lines[-1].get_ydata() == pytest.approx(lost)
    assert labels(drawn[0]) == ["accuracy (%)", "tasks learned", "forgetting\n(% points)"]


def test_progress_without_validation_data(tmp_path, drawn):
    draw_progress(tmp_path / "p.png", some_trial(tmp_path, validation=None), "t")
    assert set(lines(drawn[0].axes[0])) == {"average, test", "each task, test"}


def test_capacity_shows_what_was_reported(tmp_path, drawn):
    trial = some_trial(tmp_path, use={"units1": 0.2, "total": 0.1})
    draw_capacity(tmp_path / "c.png", trial.rows, "t")
    (axes,) = drawn[0].axes
    found = lines(axes)
    assert list(found["units1"][0]) == [1, 2, 3, 4, 5]
    assert found["units1"][1] == pytest.approx([10, 20, 30, 40, 50])
    assert found["units2"][1] == pytest.approx([5, 10, 15, 20, 25])
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([10.0] * 5)
    assert labels(drawn[0]) == ["after learning task", "weights in use so far (%)"]


@pytest.mark.parametrize("layers", [1, 30])
def test_capacity_of_few_and_many_layers(tmp_path, drawn, layers):
    capacity = {**{f"layers.{n}.weight": 0.02 * n for n in range(layers)}, "total": 0.4, "unknown": None}
    draw_capacity(tmp_path / "c.png", some_trial(tmp_path, capacity=capacity).rows, "t")
    assert lines(drawn[0].axes[0])["all layers"][1] == pytest.approx([40] * 5)


def test_overlap_by_hand():
    masks = {
        (0, "a"): unit(0, 1, 2, 3),
        (1, "a"): unit(2, 3),
        (2, "a"): unit(),
        (0, "b"): Mask("ternary", torch.tensor([0, 1, 2, 0], dtype=torch.uint8)),
        (1, "b"): Mask("ternary", torch.tensor([2, 2, 0, 0], dtype=torch.uint8)),
    }
    # task 1 uses a0-a3, b1, b2; task 2 uses a2, a3, b0, b1: they share a2, a3, b1
    expected = torch.tensor([[1, 3 / 6, 0], [3 / 4, 1, 0], [math.nan] * 3], dtype=torch.float64)
    torch.testing.assert_close(overlap(masks), expected, equal_nan=True)


def test_overlap_of_layers_that_grow_and_of_none():
    small, large = torch.tensor([[True, True]]), torch.tensor([[True, False, True], [True, True, True]])
    found = overlap({(0, "w"): Mask("weight", small), (1, "w"): Mask("weight", large)})
    torch.testing.assert_close(found, torch.tensor([[1, 1 / 2], [1 / 5, 1]], dtype=torch.float64))
    assert overlap({}).shape == (0, 0)


def test_overlap_of_more_than_is_compared_at_a_time(monkeypatch):
    monkeypatch.setattr("trackers.compare._CHUNK", 64)
    torch.manual_seed(0)
    masks = {(t, layer): Mask("weight", torch.rand(31, 17) < 0.4) for t in range(4) for layer in "ab"}
    sets = [{(layer, i) for layer in "ab" for i in masks[t, layer].values.flatten().nonzero()[:, 0].tolist()} for t in range(4)]
    expected = [[len(mine & other) / len(mine) for other in sets] for mine in sets]
    torch.testing.assert_close(overlap(masks), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("tasks", [2, 40])
def test_overlap_is_drawn_with_a_blank_diagonal(tmp_path, drawn, tasks):
    draw_overlap(tmp_path / "o.png", torch.rand(tasks, tasks, dtype=torch.float64), "t")
    shown = drawn[0].axes[0].images[0].get_array()
    assert (np.isnan(shown.filled(np.nan)) == np.eye(tasks, dtype=bool)).all()
    assert drawn[0].axes[1].get_ylabel() == "shared (%)"


def test_scales():
    assert scale_of("k", [1, 3, 2]).places == [0, 1, 0.5]
    assert scale_of("lr", [0.001, 0.1, 0.01]).places == pytest.approx([0, 1, 0.5])  # by its logarithm
    assert scale_of("k", [7, 7]).places == [0.5, 0.5]
    words = scale_of("k", [True, "adam", None, 0.5])
    assert sorted(words.places) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert {word for _, word in words.ticks} == {"on", "adam", "–", "0.5"}  # noqa: RUF001
    assert len(scale_of("k", list(range(100))).ticks) == 5
    assert len(scale_of("k", [f"w{n}" for n in range(100)]).ticks) <= 12


def test_parallel_coordinates_go_through_the_values(tmp_path, drawn):
    found = [configuration(n, 0.9 - 0.1 * n, p=n, name="ab"[n % 2]) for n in range(3)]
    draw_parallel(tmp_path / "p.png", found, ["p", "name"])
    axes = drawn[0].axes[0]
    best = axes.lines[0].get_data()  # drawn before the axes' own lines
    assert list(best[0]) == [0, 1, 2]
    assert list(best[1]) == [0, 0, 1]
    segments = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    assert segments == [pytest.approx([1, 0, 0]), pytest.approx([0.5, 1, 0.5]), pytest.approx([0, 0, 1])]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["p", "name", "validation\naccuracy (%)"]


def test_parallel_coordinates_of_many_keys_and_of_no_scores(tmp_path, drawn):
    keys = [f"key{n}" for n in range(30)]
    draw_parallel(tmp_path / "p.png", [configuration(0, 0.9, **dict.fromkeys(keys, 1))], keys)
    assert len(drawn[0].axes[0].get_xticks()) == MOST_AXES + 1
    draw_parallel(tmp_path / "p.png", [configuration(0, math.nan, p=1)], ["p"])
    assert "No configuration" in drawn[1].axes[0].texts[0].get_text()


def test_importance_finds_what_matters():
    numbers = np.random.default_rng(0)
    drawn = [(float(numbers.uniform(1e-4, 1)), float(numbers.uniform()), str(numbers.choice(["x", "y"]))) for _ in range(60)]
    found = [configuration(n, 0.9 - 0.1 * abs(math.log10(a) + 2), a=a, b=b, c=c) for n, (a, b, c) in enumerate(drawn)]
    shares = importances(found, ["a", "b", "c"])
    assert next(iter(shares)) == "a"
    assert shares["a"] > 0.6
    assert sum(shares.values()) == pytest.approx(1)
    chosen = [configuration(n, 0.5 + 0.3 * (c == "x") + 0.01 * b, a=a, b=b, c=c) for n, (a, b, c) in enumerate(drawn)]
    assert next(iter(importances(chosen, ["a", "b", "c"]))) == "c"


def test_importance_of_keys_that_not_all_have():
    found = [configuration(n, 0.5 + 0.01 * (n % 7), k=n % 3, **({"depth": n % 5} if n % 2 else {})) for n in range(40)]
    assert set(importances(found, ["k", "depth"])) == {"k", "depth"}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([configuration(n, 0.5 + 0.01 * n, k=n) for n in range(19)], "20 configurations .* there are 19"),
        ([configuration(n, math.nan, k=n) for n in range(30)], "there are 0"),
        ([configuration(n, 0.9, k=n) for n in range(30)], "score the same"),
        ([configuration(n, 0.01 * n, k=1) for n in range(30)], "Nothing varies"),
    ],
)
def test_importance_says_why_it_is_not_known(tmp_path, drawn, found, why):
    draw_importance(tmp_path / "i.png", importances(found, ["k"]))
    (text,) = drawn[0].axes[0].texts
    assert re.search(why, text.get_text().replace("\n", " "))


def test_importance_is_drawn(tmp_path):
    found = [configuration(n, 0.01 * n, **{"$a_{": n, "b": n % 2}) for n in range(30)]
    draw_importance(tmp_path / "i.png", importances(found, ["$a_{", "b"]))
    assert (tmp_path / "i.png").read_bytes().startswith(PNG)


def test_the_best_until_then(tmp_path, drawn):
    fake = FakeSweep(tmp_path, tasks=2)
    fake.sweep()
    scores = [0.5, 0.8, 0.6, 0.9]
    for number, score in enumerate(scores):
        one = item(number)
        fake.pack(f"p{number}", [one])
        fake.start(f"p{number}")
        fake.run_tasks(f"p{number}", [one["trial"]], [0])
        fake.task(f"p{number}", 2, [fake.member(one["trial"], 2, validation=[score] * 2, seconds=number + 1)])
        fake.failed(one["trial"], f"p{number}") if number == 2 else fake.done(one["trial"], f"p{number}")
    record = load(tmp_path)
    draw_best_so_far(tmp_path / "b.png", record)
    draw_cost(tmp_path / "c.png", record)
    found = lines(drawn[0].axes[0])
    assert found["a trial"][1] == pytest.approx([50, 80, 90])
    assert list(found["a trial"][0]) == [1, 2, 4]
    assert found["the best so far"][1] == pytest.approx([50, 80, 90, 90])
    assert list(found["failed"][0]) == [3]
    cost = lines(drawn[1].axes[0])
    assert cost["done"][1] == pytest.approx([2.5, 3.5, 5.5])
    assert cost["failed (finished tasks only)"][1] == pytest.approx([4.5])
    assert "16.0 s of training in all, 4.5 s of it in trials that failed" in drawn[1].axes[0].get_title(loc="left")
    assert labels(drawn[0])[1].endswith("(%)")
    assert labels(drawn[1])[1].endswith("(s)")


def test_pictures_of_a_sweep_in_which_nothing_finished(tmp_path):
    fake = FakeSweep(tmp_path)
    fake.sweep()
    record = load(tmp_path)
    for draw in (draw_best_so_far, draw_cost):
        draw(tmp_path / "x.png", record)
    assert configurations(record) == []
    assert varying_in(record) == []


def test_words_are_no_formulas():
    assert kit.plain("a $\\frac{1 b\n\tc") == "a \\$\\frac{1 b c"
    assert kit.plain("x" * 100, 10) == "x" * 9 + "…"
    assert kit.plain("a\x00b") == "a?b"


@pytest.mark.parametrize("title", [r"$\frac{$", "$$", "a_b^c$x$", "\x00\x07", "_", ""])
def test_hostile_words_are_drawn(tmp_path, title):
    draw_matrix(tmp_path / "m.png", torch.rand(3, 2), title)
    found = [configuration(n, 0.1 * n, **{title: f"{title}{n}"}) for n in range(3)]
    draw_parallel(tmp_path / "p.png", found, [title])
    draw_progress(tmp_path / "g.png", some_trial(tmp_path), title)


def brightness(colour):
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def deuteranope(colour):
    """How a colour looks without green cones (Machado et al. 2009, severity 1), linear RGB."""
    matrix = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
    return matrix @ np.array([(int(colour[at : at + 2], 16) / 255) ** 2.2 for at in (1, 3, 5)])


def test_colours_are_told_apart_without_green_cones():
    seen = [deuteranope(colour) for colour in (*kit.COLOURS, "#000000", kit.GREY)]
    distances = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(distances) > 0.1
    assert brightness(kit.PALE) > 0.9
