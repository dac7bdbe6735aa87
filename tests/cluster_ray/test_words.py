"""The words of a sweep, read without running it."""

import pytest

from clcore.errors import UserError
from cluster.words import check_sweep
from sweeps.manifest import write_manifest
from sweeps.run import settings_of
from sweeps.settings import validated


def test_words_become_settings():
    found = settings_of(["--method", "hat", "--seeds", "2", "--set", "lr=0.1", "--memory", "2", "--ship", "--address", "h:1"])
    assert found == validated(
        {"method": "hat", "seeds": (0, 1), "assign": {"lr": "0.1"}, "memory": 2.0, "ship": True, "address": "h:1"}
    )


@pytest.mark.parametrize("words", [["--list"], ["--dry-run"], ["--replay", "x"], ["--fork", "x"], ["--at-task", "3"]])
def test_what_is_no_sweep_is_refused(words):
    with pytest.raises(UserError, match=f"{words[0]} does not go with a cluster"):
        settings_of(["--method", "hat", *words])


def test_a_sweep_goes_on_where_it_is_told_to(tmp_path):
    """A cluster that was is no place to go on; what else was said holds."""
    (tmp_path / "mine").mkdir()
    said = validated({"method": "hat", "address": "h:1", "ship": True, "cpus": 2, "name": "mine", "home": tmp_path})
    write_manifest(tmp_path / "mine", said, "typed")
    again = settings_of(["--resume", "mine", "--home", str(tmp_path)])
    assert (again.address, again.ship, again.cpus) == (None, False, 2)
    assert settings_of(["--resume", "mine", "--home", str(tmp_path), "--address", "h:2"]).address == "h:2"


def test_what_a_pack_is_given_on_a_cluster_need_not_be_here(tmp_path):
    said = {"method": "finetune", "space": "default", "home": tmp_path, "cpus": 9999, "gpus_per_trial": 64.0, "ship": True}
    check_sweep(validated(said))
    with pytest.raises(UserError, match="at most 5"):
        check_sweep(validated({**said, "tasks": 6}))
