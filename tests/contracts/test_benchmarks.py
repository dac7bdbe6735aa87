"""What every benchmark must keep, over all registered ones that need no files (over all with $CLSWEEP_DATA)."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from clcore.benchmarks import BENCHMARKS, Benchmark, BenchmarkOptions, Source, Split, Task, assemble, build
from clcore.benchmarks.recipes import rotation
from clcore.benchmarks.recipes import split as split_classes
from clcore.benchmarks.splits import stratified
from clcore.errors import BadValue, UnknownName

DATA = os.environ.get("CLSWEEP_DATA")
DIGITS = [name for name in BENCHMARKS.names() if name.endswith("-digits")]
needs_data = pytest.mark.skipif(not DATA, reason="CLSWEEP_DATA does not name a folder with MNIST and Fashion-MNIST")
EVERY = [*DIGITS, *(pytest.param(n, marks=needs_data) for n in BENCHMARKS.names() if n not in DIGITS)]


def make(name, seed=0, **options):
    return build(name, BenchmarkOptions(**options), seed, Path(DATA) if DATA else None)


def original(split: Split, task: Task) -> torch.Tensor:
    """The source's class of each example."""
    return torch.tensor(task.classes)[split.labels]


def images_of(split: Split) -> set[bytes]:
    return {split.images[row].numpy().tobytes() for row in split.rows.tolist()}


def test_the_nine_benchmarks_are_registered_with_a_description():
    ways = {f"{way}-{source}" for way in ("split", "permuted", "rotated") for source in ("digits", "mnist", "fashion")}
    assert set(BENCHMARKS.names()) >= ways
    assert all(BENCHMARKS.get(name).description and BENCHMARKS.get(name).name == name for name in ways)


@pytest.mark.parametrize("name", EVERY)
def test_train_validation_and_test_are_disjoint_and_lose_nothing(name):
    benchmark = make(name)
    for task in benchmark.tasks:
        train, validation = set(task.train.rows.tolist()), set(task.validation.rows.tolist())
        assert len(train) == len(task.train)
        assert len(validation) == len(task.validation)
        assert not train & validation
        assert task.train.images is task.validation.images
        assert task.train.images is not benchmark.test(task.index).images
        whole = make(name, validation="none").tasks[task.index].train
        assert train | validation == set(whole.rows.tolist())


@pytest.mark.parametrize("name", DIGITS)
def test_test_images_are_in_no_tensor_that_a_task_holds(name):
    benchmark = make(name)
    reachable = {image.numpy().tobytes() for task in benchmark.tasks for image in task.train.images}
    tested = [images_of(benchmark.test(task.index)) for task in benchmark.tasks]
    assert not any(reachable & images for images in tested)
    # Nothing is lost on the way: as many images as scikit-learn ships.
    assert len(benchmark.tasks[0].train.images) + len(benchmark.test(0).images) == len(load_digits().target)


@pytest.mark.parametrize("name", EVERY)
def test_splits_are_stratified(name):
    benchmark = make(name)
    for task in benchmark.tasks:
        for label in range(len(task.classes)):
            held, learned = int((task.validation.labels == label).sum()), int((task.train.labels == label).sum())
            assert held == round(0.15 * (held + learned))


def test_the_digits_test_set_is_a_fifth_of_every_class():
    counts = np.bincount(load_digits().target)
    split = make("permuted-digits").test(0)
    assert torch.bincount(split.labels).tolist() == [round(0.2 * count) for count in counts]


@pytest.mark.parametrize("name", EVERY)
def test_labels_are_the_sources_and_in_range(name):
    benchmark = make(name)
    for task in benchmark.tasks:
        for split in (task.train, task.validation, benchmark.test(task.index)):
            assert split.labels.dtype == split.rows.dtype == torch.int64
            assert split.labels.unique().tolist() == list(range(len(task.classes)))
            assert 0 <= int(split.rows.min()) <= int(split.rows.max()) < len(split.images)


@pytest.mark.parametrize("name", DIGITS)
def test_labels_match_the_images_of_scikit_learn(name):
    digits = load_digits()
    truth = {image.astype(np.uint8).tobytes(): label for image, label in zip(digits.images, digits.target, strict=True)}
    benchmark = make(name)
    for task in benchmark.tasks:
        for split in (task.train, task.validation, benchmark.test(task.index)):
            expected = [truth[split.images[row].numpy().tobytes()] for row in split.rows.tolist()]
            assert original(split, task).tolist() == expected


@pytest.mark.parametrize("name", EVERY)
def test_the_seed_decides_the_validation_rows_and_nothing_of_the_test_rows(name):
    first, again, other = make(name, 0), make(name, 0), make(name, 1)
    assert first.digest == again.digest != other.digest
    for task in range(len(first.tasks)):
        rows = [benchmark.tasks[task].validation.rows for benchmark in (first, again, other)]
        assert torch.equal(rows[0], rows[1])
        assert not torch.equal(rows[0], rows[2])
        assert torch.equal(first.test(task).images, other.test(task).images)
        assert torch.equal(first.test(task).rows, other.test(task).rows)
        assert torch.equal(first.test(task).labels, other.test(task).labels)


@pytest.mark.parametrize("name", [name for name in DIGITS if not name.startswith("split")])
def test_tasks_that_show_the_same_images_hold_out_the_same_rows(name):
    first, *others = make(name).tasks
    assert all(task.train.rows is first.train.rows for task in others)
    assert all(task.validation.rows is first.validation.rows for task in others)


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_is_normalised_and_shaped(name):
    benchmark = make(name)
    split = benchmark.tasks[0].train
    inputs, labels = split.batch(torch.tensor([3, 0, 3]), torch.float64)
    assert inputs.shape == (3, *benchmark.input_shape)
    assert inputs.dtype == torch.float64
    assert torch.equal(inputs[0], inputs[2])
    assert labels.tolist() == [split.labels[i].item() for i in (3, 0, 3)]
    assert split.batch(torch.tensor([0]))[0].dtype == torch.float32


def test_normalisation_of_the_digits():
    split = make("split-digits").tasks[0].train
    inputs, _ = split.batch(torch.arange(4), torch.float64)
    for i in range(4):
        expected = split.images[split.rows[i]].double() / 16
        assert torch.equal(inputs[i], expected)


@needs_data
@pytest.mark.parametrize("name", ["split-mnist", "split-fashion"])
def test_constants_of_the_normalisation_are_those_of_the_training_images(name):
    split = make(name).tasks[0].train
    pixels = split.images.double() / 255
    assert float(pixels.mean()) == pytest.approx(split.mean, abs=1e-4)
    assert float(pixels.std()) == pytest.approx(split.std, abs=1e-4)


def test_natural_class_order_and_offsets_of_split_digits():
    benchmark = make("split-digits")
    assert [task.classes for task in benchmark.tasks] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]
    assert [task.offset for task in benchmark.tasks] == [0, 2, 4, 6, 8]
    assert [task.name for task in benchmark.tasks][:2] == ["digits 0/1", "digits 2/3"]
    assert [task.index for task in benchmark.tasks] == list(range(5))


@pytest.mark.parametrize(
    ("scenario", "offsets", "outputs"),
    [("task-il", [0, 2, 4], 6), ("class-il", [0, 2, 4], 6), ("domain-il", [0, 0, 0], 2)],
)
def test_scenarios_decide_offsets_and_outputs(scenario, offsets, outputs):
    benchmark = make("split-digits", tasks=3, scenario=scenario)
    assert benchmark.scenario == scenario
    assert [task.offset for task in benchmark.tasks] == offsets
    assert benchmark.outputs_total == outputs


def test_permuted_tasks_have_outputs_of_their_own_unless_domain_il():
    assert make("permuted-digits", tasks=3, scenario="class-il").outputs_total == 30
    assert make("permuted-digits", tasks=3, scenario="domain-il").outputs_total == 10


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"larger_first_task": 4}, [4, 2, 2, 2]),
        ({"larger_first_task": 4, "classes_per_task": 3}, [4, 3, 3]),
        ({"larger_first_task": 4, "tasks": 2}, [4, 2]),
        ({"classes_per_task": 5}, [5, 5]),
        ({"classes_per_task": 3}, [3, 3, 3]),
        ({"tasks": 3}, [2, 2, 2]),
        ({"larger_first_task": 10}, [10]),
        ({"classes_per_task": 1, "scenario": "class-il"}, [1] * 10),
    ],
)
def test_sizes_of_split_tasks(options, sizes):
    tasks = make("split-digits", **options).tasks
    assert [len(task.classes) for task in tasks] == sizes
    seen = [label for task in tasks for label in task.classes]
    assert seen == list(range(sum(sizes)))
    assert [task.offset for task in tasks] == [sum(sizes[:i]) for i in range(len(sizes))]


def test_shuffled_classes_are_a_seeded_rearrangement():
    orders = [[c for t in make("split-digits", seed, shuffle_classes=True).tasks for c in t.classes] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert all(sorted(order) == list(range(10)) for order in orders)


def test_inputs_that_are_not_normalised_are_the_raw_values_over_the_largest():
    sets = [(torch.randint(0, 256, (n, 1, 2, 2)).to(torch.uint8), torch.arange(n) % 4) for n in (40, 8)]
    noise = Source("noise", *sets[0], *sets[1], 255.0, 0.3, 0.5)
    plain, shifted = (
        assemble("n", noise, split_classes(noise, o, 0), o, 0).test(0)
        for o in (BenchmarkOptions(normalise=False), BenchmarkOptions())
    )
    inputs, _ = plain.batch(torch.arange(len(plain)))
    assert torch.allclose(inputs, noise.test_images[plain.rows] / 255, atol=1e-7)
    assert torch.allclose(shifted.batch(torch.arange(len(shifted)))[0], (inputs - 0.3) / 0.5, atol=1e-6)


def test_permutations_are_bijections_one_a_task_and_independent_of_the_number_of_tasks():
    few, many = make("permuted-digits", tasks=2), make("permuted-digits", tasks=4)
    drawn = [task.train.pixels for task in many.tasks]
    for pixels in drawn:
        assert sorted(pixels.tolist()) == list(range(64))
        assert pixels.tolist() != list(range(64))  # the first task is permuted too
    assert len({tuple(pixels.tolist()) for pixels in drawn}) == 4
    assert torch.equal(few.tasks[1].train.pixels, drawn[1])
    assert not torch.equal(make("permuted-digits", 1, tasks=2).tasks[1].train.pixels, drawn[1])


def test_a_permuted_batch_moves_pixels_as_it_says():
    task = make("permuted-digits", tasks=2).tasks[1]
    inputs, _ = task.train.batch(torch.arange(5), torch.float64)
    for i in range(5):
        flat = task.train.images[task.train.rows[i]].flatten().double() / 16
        assert inputs[i].flatten().tolist() == [flat[source].item() for source in task.train.pixels.tolist()]


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_all_parts_of_a_task_are_rearranged_alike(part):
    for name in ("permuted-digits", "rotated-digits"):
        benchmark = make(name, tasks=3)
        split = benchmark.test(2) if part == "test" else getattr(benchmark.tasks[2], part)
        assert torch.equal(split.pixels, benchmark.tasks[2].train.pixels)
        assert split.blank is benchmark.tasks[2].train.blank


@pytest.mark.parametrize("index", [0, 1, 4, 9, 35])
def test_a_rotated_batch_is_what_pil_makes_of_each_image(index):
    split = make("rotated-digits", tasks=36).test(index)
    inputs, _ = split.batch(torch.arange(20), torch.float64)
    for i in range(20):
        image = Image.fromarray(split.images[split.rows[i]][0].numpy())
        turned = np.array(image.rotate(10 * index, resample=Image.Resampling.NEAREST)).astype(np.float64) / 16
        assert np.array_equal(inputs[i, 0].numpy(), turned)


def test_rotating_colour_images_keeps_channels_apart():
    images = torch.from_numpy(np.random.default_rng(0).integers(1, 256, (3, 6, 5), dtype=np.uint8))
    pixels, blank = rotation((3, 6, 5), 30)
    turned = images.flatten()[pixels].masked_fill(blank, 0).view(3, 6, 5)
    for channel in range(3):
        assert np.array_equal(turned[channel].numpy(), np.array(Image.fromarray(images[channel].numpy()).rotate(30)))


def test_train_copy_validates_on_the_training_set_and_none_on_nothing():
    copied, nothing = make("split-digits", validation="train-copy"), make("split-digits", validation="none")
    for task, other in zip(copied.tasks, nothing.tasks, strict=True):
        assert task.validation is task.train
        assert other.validation is None
        assert torch.equal(task.train.rows, other.train.rows)


def test_validation_fraction_is_followed():
    task = make("split-digits", validation_fraction=0.5).tasks[0]
    assert len(task.validation) == pytest.approx(len(task.train), abs=2)


def test_stratified_keeps_at_least_one_of_each_class_on_both_sides():
    labels = torch.tensor([0] * 2 + [1] * 50)
    for fraction in (0.01, 0.99):
        for rows in stratified(labels, fraction, 0, "validation"):
            assert set(labels[rows].tolist()) == {0, 1}


def test_the_digest_follows_what_is_learned():
    digests = [
        make("split-digits").digest,
        make("split-digits", scenario="class-il").digest,
        make("split-digits", scenario="domain-il").digest,
        make("split-digits", tasks=4).digest,
        make("split-digits", validation="none").digest,
        make("permuted-digits").digest,
        make("rotated-digits").digest,
    ]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 16 and int(digest, 16) >= 0 for digest in digests)


def test_the_digest_follows_the_images():
    benchmark = make("split-digits")
    split = benchmark.tasks[0].train
    changed = split.images.clone()
    changed[split.rows[0], 0, 4, 4] += 1
    task = Task(0, "t", (0, 1), 0, Split(changed, split.labels, split.rows, None, 16, 0, 1), None)
    same = Task(0, "t", (0, 1), 0, Split(split.images.clone(), split.labels, split.rows, None, 16, 0, 1), None)
    plain = Task(0, "t", (0, 1), 0, Split(split.images, split.labels, split.rows, None, 16, 0, 1), None)
    tests = (benchmark.test(0),)
    of = [Benchmark("b", "task-il", (shown,), tests, (1, 8, 8)).digest for shown in (plain, same, task)]
    assert of[0] == of[1] != of[2]


def test_moving_a_benchmark_keeps_sharing_and_content():
    benchmark = make("permuted-digits", tasks=3)
    moved = benchmark.to("meta")  # a device that copies shapes only: sharing is seen by identity
    assert moved.digest == benchmark.digest
    images = {id(s.images) for t in moved.tasks for s in (t.train, t.validation)}
    assert len(images) == len({id(moved.test(i).images) for i in range(3)}) == 1
    assert moved.tasks[0].train.rows is moved.tasks[2].train.rows
    assert moved.tasks[0].train.images.device.type == "meta"
    assert moved.test(1).pixels is moved.tasks[1].train.pixels
    same = benchmark.to("cpu")
    assert torch.equal(same.tasks[1].train.batch(torch.arange(3))[0], benchmark.tasks[1].train.batch(torch.arange(3))[0])
    assert benchmark.tasks[0].train.to("meta").images.device.type == "meta"


def test_tasks_and_test_splits_must_be_as_many():
    benchmark = make("split-digits")
    with pytest.raises(ValueError, match="5 tasks but 1 test splits"):
        Benchmark("b", "task-il", benchmark.tasks, (benchmark.test(0),), (1, 8, 8))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("split-digits", {"tasks": 0}, "tasks = 0 is not allowed: it must be an integer >= 1."),
        ("split-digits", {"tasks": 2.0}, "tasks = 2.0 is not allowed"),
        ("split-digits", {"tasks": True}, "tasks = True is not allowed"),
        (
            "split-digits",
            {"tasks": 6},
            "tasks = 6 is not allowed: it must be at most 5: 2 classes first and 2 after, of 10.",
        ),
        ("split-digits", {"classes_per_task": 11}, "classes_per_task = 11 is not allowed: it must be at most 10"),
        ("split-digits", {"classes_per_task": 1}, "classes_per_task = 1 is not allowed: it must be at least 2"),
        ("split-digits", {"larger_first_task": 12}, "larger_first_task = 12 is not allowed: it must be at most 10"),
        ("split-digits", {"larger_first_task": 4, "tasks": 5}, "at most 4: 4 classes first and 2 after, of 10"),
        ("split-digits", {"larger_first_task": 4, "scenario": "domain-il"}, "scenario = 'domain-il' is not allowed"),
        ("permuted-digits", {"larger_first_task": 4}, "larger_first_task = 4 is not allowed: it must be left out"),
        ("permuted-digits", {"classes_per_task": 11}, "classes_per_task = 11 is not allowed: it must be at most 10"),
        ("rotated-digits", {"tasks": 37}, "tasks = 37 is not allowed: it must be at most 36"),
        (
            "split-digits",
            {"validation_fraction": 1.0},
            "validation_fraction = 1.0 is not allowed: it must be a number between",
        ),
        ("split-digits", {"validation_fraction": "x"}, "validation_fraction = 'x' is not allowed"),
        ("split-digits", {"shuffle_classes": 1}, "shuffle_classes = 1 is not allowed: it must be true or false"),
        ("split-digits", {"normalise": 0}, "normalise = 0 is not allowed: it must be true or false"),
    ],
)
def test_values_that_cannot_be(name, options, message):
    with pytest.raises(BadValue) as caught:
        make(name, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("split-digit", {}, "unknown benchmark 'split-digit'. Did you mean 'split-digits'?"),
        ("split-digits", {"scenario": "taskil"}, "unknown scenario 'taskil'. Did you mean 'task-il'?"),
        ("split-digits", {"validation": "splitt"}, "unknown validation 'splitt'. Did you mean 'split'?"),
    ],
)
def test_names_that_nobody_knows(name, options, message):
    with pytest.raises(UnknownName) as caught:
        make(name, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0"])
def test_seeds_that_cannot_be(seed):
    with pytest.raises(BadValue, match="an integer >= 0"):
        build("split-digits", BenchmarkOptions(), seed)


@needs_data
def test_sizes_of_mnist():
    benchmark = make("permuted-mnist", tasks=1)
    assert (len(benchmark.tasks[0].train) + len(benchmark.tasks[0].validation), len(benchmark.test(0))) == (
        60000,
        10000,
    )
