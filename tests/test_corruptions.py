"""Corrupted images against scipy and Python's own colours, and what is said of a trial on them."""

import colorsys

import numpy as np
import pytest
import torch
from helpers import benchmark, finish, learner
from scipy import ndimage

from clcore.benchmarks import BenchmarkOptions, build
from clcore.corruptions import (
    BLUR,
    BRIGHTNESS,
    CORRUPTIONS,
    NOISE,
    ROTATION,
    SEVERITIES,
    blurred,
    brighter,
    corrupt,
    robustness,
    rotated,
    worse_split,
)  # fmt: skip
from clcore.errors import BadValue, UnknownName
from clcore.predictor import Predictor, Recipe


def images(count=3, channels=1, height=12, width=9):
    return torch.rand(count, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_blur_is_scipys_gaussian(sigma):
    """scikit-image's, which MNIST-C's code calls, is scipy's with the nearest value beyond the edge, cut off at 4 sigma."""
    x = images(channels=2)
    wanted = ndimage.gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    assert np.allclose(blurred(x, sigma).numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("angle", [0.2, -0.7, 1.0])
def test_rotation_is_scipys_bilinear(angle):
    x = images(channels=2)
    turned = rotated(x, torch.tensor([angle, -angle, 0.0], dtype=torch.float64))
    for image, by, found in zip(x, (angle, -angle, 0.0), turned, strict=True):
        wanted = ndimage.rotate(image.numpy(), np.degrees(by), axes=(2, 1), reshape=False, order=1, mode="grid-constant")
        assert np.allclose(found.numpy(), wanted, atol=1e-12)


def test_brightness_raises_the_value_and_keeps_the_hue():
    x = images(count=1, channels=3, height=4, width=5)
    x[0, :, 0, 0], x[0, :, 0, 1] = 0.0, 1.0
    found = brighter(x, 0.3)[0].flatten(1).T.tolist()
    for before, after in zip(x[0].flatten(1).T.tolist(), found, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1)), abs=1e-12)
    gray = images()
    assert torch.allclose(brighter(gray, 0.3), (gray + 0.3).clamp(max=1))


def test_each_severity_is_what_it_says():
    x = images(count=400, height=28, width=28) * 0 + 0.5
    for level, severity in enumerate(SEVERITIES):
        noise = corrupt(x, "noise", severity, 0) - x
        inside = noise[noise.abs() < 0.5]
        clipped = float((noise.abs() == 0.5).double().mean())
        assert clipped == pytest.approx(1 - float(torch.erf(torch.tensor(0.5 / NOISE[level] / 2**0.5))), abs=2e-3)
        assert float(noise.mean()) == pytest.approx(0, abs=3e-3)
        if clipped < 1e-3:
            assert float(inside.std()) == pytest.approx(NOISE[level], rel=0.01)
        few = images(count=6, height=28, width=28)
        assert torch.allclose(corrupt(few, "blur", severity, 0), blurred(few, BLUR[level]))
        assert torch.equal(corrupt(few, "brightness", severity, 0), brighter(few, BRIGHTNESS[level]))
        sides = [torch.full((6,), side * ROTATION[level], dtype=torch.float64) for side in (-1, 1)]
        left, right = (torch.stack([(a - b).abs().max() for a, b in zip(corrupt(few, "rotation", severity, 0), rotated(few, side),
                                                                        strict=True)]) for side in sides)  # fmt: skip
        assert bool(((left < 1e-12) ^ (right < 1e-12)).all())
        assert bool((left < 1e-12).any() & (right < 1e-12).any())
    small = images(height=14, width=14)
    assert torch.allclose(corrupt(small, "blur", 2, 0), blurred(small, BLUR[1] / 2))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_gives_the_same_images_in_range(name):
    x = images(count=8)
    first = [corrupt(x, name, severity, 7) for severity in SEVERITIES]
    assert all(torch.equal(corrupt(x, name, s, 7), one) for s, one in zip(SEVERITIES, first, strict=True))
    assert all(float(one.min()) >= 0 and float(one.max()) <= 1 for one in first)
    if name in ("noise", "rotation"):
        assert not torch.equal(corrupt(x, name, 3, 8), first[2])


def test_permuted_images_are_made_worse_before_they_are_permuted():
    split = benchmark("permuted-digits", scenario="domain-il").test(1)
    assert split.pixels is not None
    worse = worse_split(split, "blur", 2, 0)
    found, labels = worse.batch(torch.arange(5))
    raw = split.images[split.rows[:5]].float() / split.scale
    wanted = corrupt(raw, "blur", 2, 0).flatten(1)[:, split.pixels].reshape(raw.shape)
    assert torch.allclose(found, (wanted - split.mean) / split.std, atol=1e-6)
    assert torch.equal(labels, split.batch(torch.arange(5))[1])
    assert len(worse) == len(split)


@pytest.mark.parametrize("scenario", ["task-il", "class-il"])
def test_what_a_trial_suffers(scenario):
    """Images as they are score what the learner said; the rows are what an evaluation by hand gives."""
    made = learner("separate-heads", scenario=scenario, tasks=2, epochs=6, lr=0.3, batch_size=32)
    said = finish(made)[-1].members[0]
    recipe = Recipe.of("separate-heads", vars(made.method.hyper), {"spec": "mlp:16-16"}, made.benchmark, 0)
    predictor = Predictor(recipe, made.memory_of(0))
    rows = robustness(predictor, made.benchmark, ["brightness", "noise"], [1, 5])
    kinds = [("none", 0), ("brightness", 1), ("brightness", 5), ("noise", 1), ("noise", 5)]
    assert [(row["task"], row["corruption"], row["severity"]) for row in rows] == [(t, *kind) for t in (0, 1) for kind in kinds]
    assert [row["accuracy"] for row in rows if not row["severity"]] == said.test
    for row in rows[1:5]:
        split = made.benchmark.test(0)
        raw = corrupt(split.images[split.rows].float() / split.scale, row["corruption"], row["severity"], 0)
        tasks, labels = predictor.predict((raw - split.mean) / split.std, 0 if scenario == "task-il" else None)
        right = (labels == split.labels) & (tasks == 0)
        assert row["accuracy"] == pytest.approx(float(right.double().mean()), abs=1e-9)
        assert row["examples"] == len(split)
    assert len({row["accuracy"] for row in rows}) > 2


def test_what_cannot_be_corrupted_is_said():
    with pytest.raises(UnknownName, match="blur"):
        corrupt(images(), "blurr", 1, 0)
    for severity in (0, 6):
        with pytest.raises(BadValue, match="1, 2, 3, 4 or 5"):
            corrupt(images(), "blur", severity, 0)
    values = build("toy-regression", BenchmarkOptions(), 0)
    recipe = Recipe.of("finetune", {}, {"spec": "mlp:4"}, values, 0)
    memory = recipe.build().network.body_weights()
    with pytest.raises(BadValue, match="one of images"):
        robustness(Predictor(recipe, memory), values)
