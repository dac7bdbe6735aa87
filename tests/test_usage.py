"""What a stretch of work used: checked against work of a known size."""

import time

import pytest
import torch

from clcore.usage import Meter

MANY = 200_000_000  # bytes


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_processor_time_is_of_each_stretch_alone():
    meter = Meter("cpu")
    burn(0.3)
    first = meter.read()
    burn(0.1)
    second = meter.read()
    assert first.cpu_seconds == pytest.approx(0.3, abs=0.1)
    assert second.cpu_seconds == pytest.approx(0.1, abs=0.1)


def test_the_peak_of_a_stretch_holds_what_was_freed_within_it():
    meter = Meter("cpu")
    before = meter.read().peak_bytes
    torch.ones(MANY // 4).sum()  # freed at once
    assert meter.read().peak_bytes >= before + 0.9 * MANY


@pytest.mark.skipif(not __import__("pathlib").Path("/proc/self/clear_refs").exists(), reason="only Linux lets go of a peak")
def test_the_peak_is_forgotten_with_its_stretch():
    meter = Meter("cpu")
    torch.ones(MANY // 4).sum()
    high = meter.read().peak_bytes
    assert meter.read().peak_bytes <= high - 0.5 * MANY
