"""On Ray a trial keeps the states that it keeps in one process, and a fork goes on from them to the same end."""

import pytest
from again_kit import runs_of, uri_of
from sweep_kit import TFM, TFM_CELLS, events, folder_with, matrices, only_folder, outcome, same_matrices, start

pytestmark = pytest.mark.faults

WORDS = [*TFM, "--tasks", "3", "--set", "epochs=6", "--keep", "every-task"]
EXECUTORS = {"ray": ["--workers", "2"], "inline": ["--executor", "inline"]}


def states(sweep):
    """Trial and boundary -> the bytes that were kept there."""
    return {(path.parent.parent.name, path.parent.name): path.read_bytes() for path in sweep.glob("trials/*/after-*/*.safetensors")}


def test_states_and_a_fork_from_one_are_those_of_one_process(tmp_path_factory):
    folder = folder_with(tmp_path_factory, "kept", tfm=TFM_CELLS)
    for home, words in EXECUTORS.items():
        said = outcome(start(*WORDS, *words, "--home", home, cwd=folder))
        assert said.code == 0, said.err
    parents = [only_folder(folder / home) for home in EXECUTORS]
    one, other = map(states, parents)
    assert len(one) == (6 + 2) * 2  # the references keep theirs too
    assert one == other
    trial = next(pack["trials"][0]["trial"] for pack in events(parents[0], "pack") if len(pack["trials"]) == 2)
    for home, words in EXECUTORS.items():
        run_id = runs_of(uri_of(folder / home))[1][trial].info.run_id
        call = ["--fork", run_id, "--at-task", "3", "--set", "lr=0.05", "--name", "forked", *words, "--home", home]
        said = outcome(start(*call, cwd=folder))
        assert said.code == 0, said.err
        assert "the state before task 3 was kept" in said.out
    forks = [folder / home / "forked" for home in EXECUTORS]
    assert same_matrices(*forks)
    (fork,), (parent,) = matrices(forks[0]).values(), [matrices(parents[0])[trial]]
    assert fork["test"][:3].nan_to_num(-1).equal(parent["test"][:3].nan_to_num(-1))
    assert not fork["test"][3].equal(parent["test"][3]), "the other rate changed nothing"
