"""Checkpoints: what is written is read back, and what is damaged is said to be."""

import json
import math
import os

import pytest
import torch
from safetensors.torch import load_file, save

from clcore import checkpoint
from clcore.checkpoint import FACTS, TENSORS, DamagedCheckpoint

STATE = {
    "a": torch.tensor([[1.0, -0.0], [math.inf, math.nan]]),
    "b": torch.arange(5),
    "c": torch.tensor(1e-300, dtype=torch.float64),
    "d": torch.tensor([True, False]),
    "e": torch.zeros(0, 3),
}


@pytest.fixture
def folder(tmp_path):
    checkpoint.write(tmp_path / "deep" / "down", STATE, {"sizes": [None, {"units1": 3}], "x": 0.1})
    return tmp_path / "deep" / "down"


def test_it_comes_back_bit_for_bit(folder):
    tensors, facts = checkpoint.read(folder)
    assert tensors.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert tensors[name].flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist()
    assert facts["sizes"] == [None, {"units1": 3}]
    assert facts["x"] == 0.1


def test_only_two_files_and_no_pickle(folder):
    assert sorted(os.listdir(folder)) == [FACTS, TENSORS]
    assert load_file(folder / TENSORS).keys() == STATE.keys()
    json.loads((folder / FACTS).read_text())


def test_views_transposed_and_shared_tensors_are_written(tmp_path):
    base = torch.arange(6.0).reshape(2, 3)
    checkpoint.write(tmp_path, {"whole": base, "again": base, "turned": base.T, "row": base[1]}, {})
    tensors, _ = checkpoint.read(tmp_path)
    assert tensors["turned"].tolist() == base.T.tolist()
    assert tensors["row"].tolist() == [3.0, 4.0, 5.0]
    assert torch.equal(tensors["whole"], tensors["again"])


@pytest.mark.parametrize("name", [FACTS, TENSORS])
@pytest.mark.parametrize("harm", ["missing", "empty", "half", "noise", "flipped"])
def test_a_damaged_checkpoint_is_refused(folder, name, harm):
    path = folder / name
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "half":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "noise":
        path.write_bytes(b"\xff\xfe\x00" * 50)
    elif name == TENSORS:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        path.write_bytes(data.replace(b'"digest": "', b'"digest": "0'))
    with pytest.raises(DamagedCheckpoint, match=str(folder)) as caught:
        checkpoint.read(folder)
    assert isinstance(caught.value, checkpoint.UserError)


@pytest.mark.parametrize("text", ['{"format": 0}', "{}", "[]", "3", "null"])
def test_another_format_is_refused(folder, text):
    (folder / FACTS).write_text(text)
    with pytest.raises(DamagedCheckpoint, match="another format than 1"):
        checkpoint.read(folder)


def test_halves_of_two_checkpoints_are_refused(folder):
    """What a crash leaves between the two files when a checkpoint is written over an older one."""
    (folder / TENSORS).write_bytes(save({"a": torch.zeros(3)}))
    with pytest.raises(DamagedCheckpoint, match="is not what"):
        checkpoint.read(folder)


@pytest.mark.parametrize("facts", [{"x": math.nan}, {"x": math.inf}, {"x": {1, 2}}])
def test_facts_that_json_cannot_hold_leave_the_old_checkpoint(folder, facts):
    before = {name: (folder / name).read_bytes() for name in (FACTS, TENSORS)}
    with pytest.raises((ValueError, TypeError)):
        checkpoint.write(folder, {"a": torch.ones(1)}, facts)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before


def test_a_full_disk_leaves_the_old_checkpoint_and_no_rubbish(folder, monkeypatch):
    before = checkpoint.read(folder)[1]

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(folder, {"a": torch.ones(1)}, {})
    assert sorted(os.listdir(folder)) == [FACTS, TENSORS]
    assert checkpoint.read(folder)[1] == before
