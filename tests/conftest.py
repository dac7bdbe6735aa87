"""Its folder is put on the path by pytest, which lets every test file import ``helpers``."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
