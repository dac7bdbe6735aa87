"""Who trains a pack: the last one that began."""

import pytest

from sweeps.lease import Lease, Superseded


@pytest.fixture
def place(tmp_path):
    return tmp_path / "heartbeats" / "p0.owner"


def test_the_last_one_that_began_has_it(place):
    first = Lease(place)
    first.check()
    second = Lease(place)
    second.check()
    with pytest.raises(Superseded):
        first.check()
    second.check()


def test_nothing_is_written_into_a_sweep_that_has_ended(place):
    lease = Lease(place)
    place.unlink()
    place.parent.rmdir()
    with pytest.raises(Superseded):
        lease.check()
    assert not place.parent.exists()


def test_where_the_folder_cannot_be_seen_nothing_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    Lease(tmp_path / "file" / "heartbeats" / "p0.owner").check()
    Lease(tmp_path / "none" / "heartbeats" / "p0.owner").check()
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
