"""The shim in fresh processes, because what it works around happens once a process."""

import importlib.util
import subprocess
import sys

import pytest

from clcore.benchmarks import torchvision_shim
from clcore.benchmarks.torchvision_shim import import_torchvision
from clcore.errors import MissingData

START = "import torch; from clcore.benchmarks import torchvision_shim as shim\n"


def run(code):
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def plain_import_works():
    return subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, timeout=120).returncode == 0


def test_it_mends_a_process_where_a_plain_import_was_tried_before():
    code = """
try:
    import torchvision
except RuntimeError:
    pass
print(shim.import_torchvision().datasets.MNIST.__name__)
"""
    assert run(code) == "MNIST"


@pytest.mark.faults
def test_it_gives_the_readers_and_can_be_called_again_in_two_processes_at_once():
    code = """
a, b = shim.import_torchvision(), shim.import_torchvision()
shim._declare_missing()
print(a is b, a.datasets.MNIST.__name__, len(shim._declared))
"""
    command = [sys.executable, "-c", START + code]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    declared = 0 if plain_import_works() else 1  # only where they are missing
    for process in both:
        assert process.communicate(timeout=120) == (f"True MNIST {declared}\n", "")
        assert process.returncode == 0


def test_operators_that_exist_are_left_alone():
    code = """
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + shim._BOXES)
shim._load_compiled = lambda folder: False
shim.import_torchvision()
print(len(shim._declared))
"""
    assert run(code) == "0"


def test_importing_it_imports_no_torchvision():
    assert run("import sys, clcore.benchmarks.recipes; print('torchvision' in sys.modules, 'sklearn' in sys.modules)") == (
        "False False"
    )


def test_a_machine_without_torchvision_gets_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingData, match="pip install torchvision"):
        import_torchvision()


def test_a_folder_without_compiled_operators_is_not_an_error(tmp_path):
    assert torchvision_shim._load_compiled(tmp_path) is False
    (tmp_path / "_C.so").write_bytes(b"not a library")
    assert torchvision_shim._load_compiled(tmp_path) is False
