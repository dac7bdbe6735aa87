"""Files a benchmark needs: data found, fetched or missed with one clear line; and a benchmark in a user's own file."""

import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from clcore.benchmarks import BenchmarkOptions, build, default_data_dir
from clcore.benchmarks import download as download_module
from clcore.benchmarks.download import download
from clcore.benchmarks.sources import FILES, mnist
from clcore.errors import BadValue, MissingData


@pytest.fixture
def no_network(monkeypatch):
    """Every look-up of a name fails, whatever machine the test runs on."""

    def refuse(*args, **kwargs):
        raise socket.gaierror("no network in this test")

    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def one_clear_line(error, folder, kind):
    text = str(error)
    assert "\n" not in text
    assert str(folder) in text
    assert "split-digits" in text
    assert all(f"{kind}/raw/{file}" in text for file in FILES)
    return text


@pytest.mark.parametrize(("name", "kind"), [("split-mnist", "MNIST"), ("permuted-fashion", "FashionMNIST")])
def test_missing_data_without_network_is_one_line_and_writes_nothing(tmp_path, no_network, name, kind):
    folder = tmp_path / "data"
    with pytest.raises(MissingData) as caught:
        build(name, BenchmarkOptions(), 0, folder)
    assert "no mirror answered" in one_clear_line(caught.value, folder, kind)
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_the_same_line(tmp_path, no_network, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as it is for a user who is not root
    with pytest.raises(MissingData) as caught:
        build("split-mnist", BenchmarkOptions(), 0, tmp_path)
    assert "nothing can be written there" in one_clear_line(caught.value, tmp_path, "MNIST")
    assert list(tmp_path.iterdir()) == []


def test_a_data_dir_that_is_a_file_is_the_same_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MissingData) as caught:
        build("split-mnist", BenchmarkOptions(), 0, tmp_path / "file")
    one_clear_line(caught.value, tmp_path / "file", "MNIST")


def test_a_mirror_that_never_answers_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "PATIENCE", 0.3)
    released = threading.Event()

    def silent(*args, **kwargs):
        released.wait(30)
        raise TimeoutError

    monkeypatch.setattr(download_module.urllib.request, "urlopen", silent)
    start = time.monotonic()
    assert "no mirror answered within 0.3 s" in download("MNIST", tmp_path)
    assert time.monotonic() - start < 20  # importing torchvision included
    released.set()


def test_a_download_that_breaks_leaves_nothing_behind(tmp_path, monkeypatch):
    def broken(self):
        Path(self.raw_folder).mkdir(parents=True)
        (Path(self.raw_folder) / FILES[0]).write_bytes(b"half")
        raise RuntimeError("Error downloading\nTried a mirror")

    datasets = download_module.import_torchvision().datasets
    monkeypatch.setattr(download_module, "_reachable", lambda urls: True)
    monkeypatch.setattr(datasets.MNIST, "download", broken)
    before = socket.getdefaulttimeout()
    with pytest.raises(MissingData) as caught:
        build("split-mnist", BenchmarkOptions(), 0, tmp_path)
    assert "Tried a mirror" in one_clear_line(caught.value, tmp_path, "MNIST")
    assert list(tmp_path.iterdir()) == []
    assert socket.getdefaulttimeout() == before


def write_idx(folder, train=40, test=20):
    """Files in the format of MNIST, whose every image is filled with its label."""
    folder.mkdir(parents=True)
    for file in FILES:
        count = train if file.startswith("train") else test
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.repeat(labels, 28 * 28) if "images" in file else labels
        sizes = [count, 28, 28] if "images" in file else [count]
        header = bytes([0, 0, 8, len(sizes)]) + np.array(sizes, ">i4").tobytes()
        (folder / file).write_bytes(header + images.tobytes())


def test_files_on_disk_are_read_without_network(tmp_path, no_network):
    write_idx(tmp_path / "MNIST" / "raw")
    benchmark = build("split-mnist", BenchmarkOptions(), 0, tmp_path)
    assert benchmark.input_shape == (1, 28, 28)
    assert len(benchmark.test(0)) == 4
    inputs, labels = benchmark.tasks[1].train.batch(torch.tensor([0]))
    expected = ((2 + labels.item()) / 255 - 0.1307) / 0.3081
    assert torch.allclose(inputs, torch.full((1, 1, 28, 28), expected))


def test_images_are_read_as_torchvision_reads_them(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw")
    found = mnist(tmp_path)
    for train, images, labels in ((True, found.images, found.labels), (False, found.test_images, found.test_labels)):
        theirs = download_module.import_torchvision().datasets.MNIST(str(tmp_path), train=train)
        assert torch.equal(images[:, 0], theirs.data)
        assert torch.equal(labels, theirs.targets)


def test_a_download_is_moved_into_place(tmp_path, monkeypatch):
    datasets = download_module.import_torchvision().datasets
    monkeypatch.setattr(download_module, "_reachable", lambda urls: True)
    monkeypatch.setattr(datasets.FashionMNIST, "download", lambda self: write_idx(Path(self.raw_folder)))
    assert len(build("split-fashion", BenchmarkOptions(), 0, tmp_path).tasks) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["FashionMNIST"]
    assert sorted(path.name for path in (tmp_path / "FashionMNIST" / "raw").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("damage", ["short", "longer", "empty", "garbage"])
def test_files_that_cannot_be_read_are_one_line(tmp_path, damage):
    folder = tmp_path / "MNIST" / "raw"
    write_idx(folder)
    whole = (folder / FILES[0]).read_bytes()
    damaged = {"short": whole[:1000], "longer": whole + b"x", "empty": b"", "garbage": b"<html>" * 99}
    (folder / FILES[0]).write_bytes(damaged[damage])
    with pytest.raises(MissingData) as caught:
        build("split-mnist", BenchmarkOptions(), 0, tmp_path)
    assert "cannot be read" in one_clear_line(caught.value, tmp_path, "MNIST")


def test_the_default_folder_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "clsweep" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_data_dir() == Path.home() / ".cache" / "clsweep" / "data"


OWN = """
import torch
from clcore.benchmarks import BenchmarkOptions, Source, View, assemble

def mirrored(options, seed, data_dir):
    images, labels = torch.arange(8 * 4).reshape(8, 1, 2, 2).to(torch.uint8), torch.tensor([0, 1] * 4)
    source = Source("own", images, labels, images[:2] + 100, labels[:2], 1.0, 0.0, 1.0)
    views = [View("plain", (0, 1)), View("mirrored", (1, 0), torch.tensor([1, 0, 3, 2]))]
    return assemble("mirrored", source, views, options, seed)

BENCHMARK = mirrored
"""


def test_a_benchmark_in_a_file_of_the_users_own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    benchmark = build(str(tmp_path / "own.py"), BenchmarkOptions(), 3)
    inputs, labels = benchmark.test(1).batch(torch.tensor([0]))
    assert inputs.flatten().tolist() == [101, 100, 103, 102]
    assert labels.tolist() == [1]  # class 0 is the second label of this task
    assert [task.name for task in benchmark.tasks] == ["own plain", "own mirrored"]
    assert (len(benchmark.tasks[0].train), len(benchmark.tasks[0].validation)) == (6, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "a file that defines BENCHMARK"),
        ("BENCHMARK = 3", "something callable with"),
        ("BENCHMARK = lambda options, seed, data_dir: []", "returns a Benchmark, not list"),
    ],
)
def test_files_that_are_no_benchmark(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(BadValue, match=message):
        build(str(tmp_path / "own.py"), BenchmarkOptions(), 0)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BadValue, match="existing Python file"):
        build(str(tmp_path / "none.py"), BenchmarkOptions(), 0)
