"""Ray's token: in a file of its owner's, and nowhere else."""

import stat

import pytest

from clcore.errors import UserError
from cluster.auth import new_token, own_environment, read_token, token_environment


@pytest.fixture(autouse=True)
def _no_token_here(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))


def test_a_new_token_is_its_owners(tmp_path):
    path, other = new_token(tmp_path / "one"), new_token(tmp_path / "two")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) >= 32
    assert path.read_text() != other.read_text()
    with pytest.raises(FileExistsError):
        new_token(path)


def test_the_environment_names_the_file_and_not_the_token(tmp_path):
    path = new_token(tmp_path / "token")
    environment = own_environment(path)
    assert environment == token_environment(path)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(path)
    assert path.read_text() not in str(environment)
    assert read_token(environment) == path.read_text()


def test_a_token_of_the_environment_is_used(monkeypatch, tmp_path):
    assert own_environment(None) == {"RAY_AUTH_MODE": "disabled"}
    assert read_token(own_environment(None)) is None
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    assert own_environment(None) == {"RAY_AUTH_MODE": "token"}
    assert read_token(own_environment(None)) == "abc"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert read_token(own_environment(None)) is None


def test_a_given_file_goes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abc")
    path = new_token(tmp_path / "token")
    assert read_token(own_environment(path)) == path.read_text()


def test_no_file_and_an_empty_one_are_refused(tmp_path):
    (tmp_path / "empty").write_text("\n")
    for name, word in (("none", "cannot be read"), ("empty", "is empty")):
        with pytest.raises(UserError, match=word):
            own_environment(tmp_path / name)
