"""The formulas against numbers computed by hand on paper."""

import math

import pytest
import torch

from clcore import metrics

# Rows: untrained, after task 1, after 2, after 3. Columns: tasks 1, 2, 3.
A = torch.tensor(
    [
        [0.50, 0.40, 0.55],
        [0.90, 0.60, 0.45],
        [0.70, 0.80, 0.65],
        [0.60, 0.84, 0.95],
    ],
    dtype=torch.float64,
)

BY_HAND = {
    1: {
        "average_accuracy": 0.90,
        "during_accuracy": 0.90,
        "forgetting_vs_diagonal": 0.0,
        "forgetting_max_previous": 0.0,
        "backward_transfer": 0.0,
        "forward_transfer_vs_init": 0.0,
    },
    2: {
        "average_accuracy": 0.75,  # (.70 + .80) / 2
        "during_accuracy": 0.85,  # (.90 + .80) / 2
        "forgetting_vs_diagonal": 0.20,  # .90 - .70
        "forgetting_max_previous": 0.20,
        "backward_transfer": -0.20,
        "forward_transfer_vs_init": 0.20,  # .60 - .40
    },
    3: {
        "average_accuracy": 0.796666666666666667,  # (.60 + .84 + .95) / 3
        "during_accuracy": 0.883333333333333333,  # (.90 + .80 + .95) / 3
        "forgetting_vs_diagonal": 0.13,  # ((.90 - .60) + (.80 - .84)) / 2
        "forgetting_max_previous": 0.13,  # task 1: max(.90, .70) - .60; task 2: max(.60, .80) - .84
        "backward_transfer": -0.13,
        "forward_transfer_vs_init": 0.15,  # ((.60 - .40) + (.65 - .55)) / 2
    },
}


@pytest.mark.parametrize("seen", [1, 2, 3])
def test_every_formula_gives_the_number_computed_by_hand(seen):
    assert metrics.named(A, seen) == pytest.approx(BY_HAND[seen], abs=1e-12)


def test_best_time_may_come_after_the_diagonal():
    risen = A.clone()
    risen[2, 0] = 0.98  # task 1 became better while task 2 was learned
    assert metrics.forgetting_max_previous(risen, 3) == pytest.approx((0.98 - 0.60 + 0.80 - 0.84) / 2)
    assert metrics.forgetting_vs_diagonal(risen, 3) == pytest.approx(0.13)


def test_best_time_may_come_before_the_task_is_learned_as_chaudhry_writes_it():
    early = A.clone()
    early[1, 1] = 0.86  # task 2 did better before it was learned than after
    assert metrics.forgetting_max_previous(early, 3) == pytest.approx((0.30 + 0.86 - 0.84) / 2)


def test_the_row_of_the_untrained_network_is_not_a_best_time():
    lucky = A.clone()
    lucky[0] = 1.0
    assert metrics.forgetting_max_previous(lucky, 3) == pytest.approx(0.13)


def test_forgetting_ratio_by_hand():
    joint = torch.tensor([[0.0] * 3, [0.9, 0.0, 0.0], [0.9, 0.9, 0.0], [0.8, 0.9, 1.0]], dtype=torch.float64)
    random = torch.full((4, 3), 0.123, dtype=torch.float64)  # off the diagonal nothing may be read
    random[1, 0], random[2, 1], random[3, 2] = 0.5, 0.4, 0.5
    # task 1: (.60 - .5) / (.8 - .5) - 1 = -2/3; task 2: (.84 - .4) / (.9 - .4) - 1 = -.12; task 3: .45 / .5 - 1 = -.1
    assert metrics.forgetting_ratio(A, joint, random, 3) == pytest.approx((-2 / 3 - 0.12 - 0.1) / 3)
    # after one task: (.9 - .5) / (.9 - .5) - 1
    assert metrics.forgetting_ratio(A, joint, random, 1) == pytest.approx(0.0)


def test_b12_forgetting_ratio_is_0_for_joint_and_minus_1_for_random():
    random = torch.tensor([[0.5, 0.45, 0.52]] * 4, dtype=torch.float64)
    for seen in (1, 2, 3):
        assert metrics.forgetting_ratio(A, A, random, seen) == 0.0
        assert metrics.forgetting_ratio(random, A, random, seen) == -1.0


@pytest.mark.parametrize("name", ["average_accuracy", "forgetting_vs_diagonal", "forgetting_max_previous"])
def test_a_failed_entry_makes_the_number_nan(name):
    failed = A.clone()
    failed[3, 0] = math.nan
    assert math.isnan(getattr(metrics, name)(failed, 3))
    assert not math.isnan(getattr(metrics, name)(failed, 2))


def test_a_failed_row_is_not_skipped_by_the_maximum():
    failed = A.clone()
    failed[2] = math.nan
    assert math.isnan(metrics.forgetting_max_previous(failed, 3))


def test_tasks_not_measured_before_they_are_learned_spoil_only_forward_transfer():
    lower = A.clone()
    lower[1:][torch.ones(3, 3, dtype=torch.bool).triu(1)] = math.nan
    numbers = metrics.named(lower, 3)
    assert math.isnan(numbers.pop("forward_transfer_vs_init"))
    expected = {name: value for name, value in BY_HAND[3].items() if name in numbers}
    assert numbers == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seen", [0, 4, -1])
def test_seen_out_of_range(seen):
    with pytest.raises(ValueError, match="between 1 and 3"):
        metrics.average_accuracy(A, seen)


def test_wrong_shapes():
    with pytest.raises(ValueError, match=r"\[T\+1, T\]"):
        metrics.average_accuracy(A[1:], 1)
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.forgetting_ratio(A, A, A[:3, :2], 2)
