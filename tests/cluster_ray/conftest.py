import sys

import pytest
from sweep_kit import Result

from cluster.launch import main


@pytest.fixture
def launch(tmp_path, monkeypatch, capsys):
    """The command line in this process, started in an empty folder, with nothing of Ray's in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that what the command sets is taken back
        monkeypatch.delenv(name)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["cluster/launch.py", *map(str, words)])
        capsys.readouterr()
        code = main()
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call
