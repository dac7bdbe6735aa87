"""``--fork``: old values until a boundary, others from it on - in the learner, through the command, and every bad call."""

import dataclasses
import json
import shlex

import pytest
import torch
from again_kit import runs_of, sweep_once, uri_of
from helpers import facts, finish, learner, same, up_to
from sweep_kit import HAT, events, listing, matrices, only_folder

from clcore.errors import BadValue
from clcore.forked import ForkedLearner, Leg
from sweeps.fork import legs
from sweeps.settings import digest, validated
from sweeps.trials import Pack, Trial, base_configuration

OLD, NEW = {"c": 0.1, "smax": 5.0}, {"c": 2.5, "smax": 5.0}


def parts(values, lrs=(0.5,), **training):
    """A HAT learner of three tasks with these values."""
    return learner("hat", [values] * len(lrs), lrs=list(lrs), **{"epochs": 3, **training})


def forked(first, second, until=2):
    """The two learners' values in one: ``first``'s before task ``until``, ``second``'s from it on."""
    ends = ((until, first), (3, second))
    return ForkedLearner(first.method, first.benchmark, [Leg(end, made.members, made.training) for end, made in ends], 0)


# -- the learner -----------------------------------------------------------------------------------------------------------


def test_a_fork_is_two_learners_of_which_the_second_goes_on_where_the_first_ended():
    first = up_to(parts(OLD, (0.5, 0.2)), 2)
    second = parts(NEW, (0.3, 0.2), momentum=0.5)
    second.memory, second.learned, second.started = first.memory, list(first.learned), True
    by_hand = [*facts(finish(parts(OLD, (0.5, 0.2))))[:3], *facts(finish(second))]
    made = forked(parts(OLD, (0.5, 0.2)), parts(NEW, (0.3, 0.2), momentum=0.5))
    assert facts(finish(made)) == by_hand
    assert same(made.memory, second.memory)
    assert facts(finish(parts(OLD, (0.5, 0.2))))[3] != by_hand[3], "values that change nothing would prove nothing"


@pytest.mark.parametrize("seen", [1, 2, 3])
def test_a_fork_that_is_resumed_is_the_uninterrupted_one(seen, tmp_path):
    whole = finish(forked(parts(OLD), parts(NEW, (0.3,))))
    up_to(forked(parts(OLD), parts(NEW, (0.3,))), seen).save(tmp_path)
    resumed = forked(parts(OLD), parts(NEW, (0.3,)))
    resumed.load(tmp_path)
    assert [(m.lr, m.hyper.c) for m in resumed.members] == [(0.5, 0.1) if seen < 3 else (0.3, 2.5)]
    rest = facts(finish(resumed))
    assert rest[-1].split("train_loss")[0] == facts(whole)[-1].split("train_loss")[0]
    assert rest[: 3 - seen] == facts(whole)[seen + 1 :] or seen == 3


def test_a_checkpoint_of_other_legs_is_refused(tmp_path):
    up_to(forked(parts(OLD), parts(NEW)), 1).save(tmp_path)
    for other in (forked(parts(OLD), parts(NEW), until=1), parts(OLD)):
        with pytest.raises(Exception, match="another pack"):
            other.load(tmp_path)


def test_members_that_left_stay_away():
    made = forked(parts(OLD, (0.5, 1e30, 0.2)), parts(NEW, (0.3, 0.3, 0.2)))
    *_, last = finish(made)
    assert [member.member for member in last.members] == [0, 2]
    assert made.hp["c"].tolist() == [2.5, 2.5]
    assert [made.members[place].lr for place in made.alive] == [0.3, 0.2]


def test_every_leg_is_checked():
    made = parts(OLD, protocol="fixed", options=(("validation", "none"),))
    later = dataclasses.replace(made.training, protocol="plateau")
    with pytest.raises(BadValue, match="validation"):
        ForkedLearner(made.method, made.benchmark, [Leg(1, made.members, made.training), Leg(3, made.members, later)], 0)


# -- what is recorded of it ------------------------------------------------------------------------------------------------


def configuration(**assign):
    return base_configuration(validated({"method": "hat", "tasks": 4, "network": "mlp:16", "assign": assign}))


def test_identities_of_trials_that_are_no_forks_are_what_they_were():
    made = configuration()
    plain = {name: value for name, value in dataclasses.asdict(made).items() if name != "fork"}
    assert made.identity == digest({**plain, "files": [], "results": 2})[:8]


def test_what_a_trial_was_forked_from_is_not_in_its_identity_but_its_first_tasks_are():
    before = [{"until": 2, "values": {"c": 0.1}}]
    one, other = (
        dataclasses.replace(configuration(), fork={"run": run, "trial": "t", "at": 3, "before": before}) for run in ("a", "b")
    )
    assert one.identity == other.identity != configuration().identity
    later = dataclasses.replace(one, fork={**one.fork, "before": [{"until": 3, "values": {"c": 0.1}}]})
    assert later.identity != one.identity
    assert later.structure != one.structure != configuration().structure
    trial = Trial(one, 4)
    assert Trial.from_entry(json.loads(json.dumps(trial.entry()))) == trial
    assert trial.entry()["fork"] == {"run": "a", "trial": "t", "at": 3}
    pack = Pack((trial,), 2, "cpu", None)
    assert Pack.from_recipe(json.loads(json.dumps(pack.recipe(trial)))) == pack


def test_forks_at_other_tasks_are_other_sweeps_and_forks_of_the_same_trial_elsewhere_are_not():
    def name(run, until):
        fork = {"run": run, "trial": "t", "at": until + 1, "before": [{"until": until, "values": {"c": 0.1}}]}
        return validated({"method": "hat", "tasks": 4, "space": "default", "fork": fork}).sweep_name()

    assert name("a", 1) == name("b", 1) != name("a", 2)
    assert name("a", 1).startswith("hat-fork-")
    assert validated({"method": "hat", "tasks": 4, "space": "default"}).sweep_name().startswith("hat-default-")


def test_legs_by_hand():
    base = configuration(c="0.5", lr="0.1")
    assert legs(base, {"c": 2.0}, 2) == [{"until": 2, "values": {"c": 0.5}}]
    once = dataclasses.replace(
        configuration(c="2.0", lr="0.1"), fork={"run": "r", "trial": "t", "at": 3, "before": [{"until": 2, "values": {"c": 0.5}}]}
    )
    assert legs(once, {"lr": 0.3}, 3) == [{"until": 2, "values": {"c": 0.5, "lr": 0.1}}, {"until": 3, "values": {"lr": 0.1}}]
    assert legs(once, {"c": 0.5}, 3) == [{"until": 2, "values": {}}, {"until": 3, "values": {"c": 2.0}}]
    assert legs(once, {"lr": 0.3}, 2) == [{"until": 2, "values": {"c": 0.5, "lr": 0.1}}]


# -- the command -------------------------------------------------------------------------------------------------------------

THREE = [word if word != "2" else "3" for word in HAT]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, migrated):
    """A HAT trial of three tasks and its record."""
    words = [*THREE, "--space", "default", "--set", "c=0.1", "--set", "epochs=4", "--pack", "1", "--no-references"]
    return sweep_once(tmp_path_factory.mktemp("parent"), migrated, words)


@pytest.fixture
def parent(mine):
    """The same in a home that a test may add to: the home, the run, the accuracies."""
    ((trial, found),) = matrices(mine).items()
    return mine.parent, runs_of(uri_of(mine.parent))[1][trial], found


def test_a_fork_from_end_to_end(parent, cli):
    home, run, before = parent
    where = ["--home", home, "--executor", "inline"]
    values = ["--set", "c=2.5", "--set", "lr=0.2", "--set", "epochs=5"]
    said = cli("--fork", run.info.run_id, "--at-task", "3", *values, *where)
    assert said.code == 0, said.out + said.err
    assert said.out.splitlines()[:2] == [
        f"fork of run {run.info.run_id} (trial {run.data.tags['cl.trial']}), from task 3 on: "
        "c 0.1 -> 2.5, epochs 4 -> 5, lr 0.5 -> 0.2",
        "the state before task 3 was not kept: tasks 1 to 2 are learned again with the old values, outside of any pack",
    ]
    assert said.ledger == {"trials": 1, "done": 1, "skipped": 0, "failed": 0}
    (sweep,) = home.glob("hat-fork-*")
    ((trial, now),) = matrices(sweep).items()
    for split in ("test", "validation"):  # the parent ran in a pack of its own, so that the same tasks give the same bits
        assert torch.equal(now[split][:3].nan_to_num(-1), before[split][:3].nan_to_num(-1))
    assert not torch.equal(now["test"][3], before["test"][3])
    (event,) = events(sweep, "pack")
    assert event["trials"][0]["fork"] == {"run": run.info.run_id, "trial": run.data.tags["cl.trial"], "at": 3}
    _, runs = runs_of(uri_of(home))
    named = {"cl.parent_run": run.info.run_id, "cl.parent_trial": run.data.tags["cl.trial"], "cl.forked_at": "3"}
    assert named.items() <= runs[trial].data.tags.items()
    assert runs[trial].data.params["c"] == "2.5"
    assert "cl.parent_run" not in run.data.tags

    again = cli("--fork", run.info.run_id, "--at-task", "3", *values[2:], *values[:2], *where)
    assert again.ledger == {"trials": 1, "done": 0, "skipped": 1, "failed": 0}
    resumed = cli("--resume", sweep.name, "--home", home)
    assert resumed.ledger["skipped"] == 1
    assert "learned again" not in resumed.out
    replayed = cli("--replay", runs[trial].info.run_id, "--home", home)
    assert replayed.code == 0, replayed.out

    (home / "repeat").mkdir()
    program, script, *words = said.command("repeat best")
    assert (program, script) == ("python", "sweeps/run.py")
    assert cli(*words, "--executor", "inline").code == 0
    assert matrices(only_folder(home / "repeat")).keys() == {trial}

    second = cli("--fork", runs[trial].info.run_id, "--at-task", "2", "--set", "c=1", "--home", home)
    refused(second, "from 3 to 3 (the trial was itself forked at task 3)")


def test_a_dry_run_of_a_fork(parent, cli):
    home, run, _ = parent
    before = {name for name in listing(home) if "mlflow" not in name}
    said = cli("--fork", run.info.run_id, "--at-task", "2", "--set", "epochs=9", "--home", home, "--dry-run")
    assert said.code == 0
    assert "task 1 is learned again" in said.out
    assert "nothing was trained" in said.out
    assert {name for name in listing(home) if "mlflow" not in name} <= before | {"pilots.json"}


def refused(said, message):
    assert said.code == 2, said.out
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


BAD = {
    "no task": ("--set c=2", "--at-task is missing: the first task with other values, from 2 to 3."),
    "the first task": ("--at-task 1 --set c=2", "from 2 to 3"),
    "after the last task": ("--at-task 4 --set c=2", "from 2 to 3"),
    "no value": ("--at-task 2", "--set KEY=VALUE"),
    "the same value": ("--at-task 2 --set c=0.1", "another than the parent's"),
    "an unknown value": ("--at-task 2 --set smx=3", "Did you mean 'smax'"),
    "out of range": ("--at-task 2 --set lr=-3", "at least 0"),
    "a part of the method": ("--at-task 2 --set schedule=paper", "schedule cannot change between two tasks"),
    "a part of the data": ("--at-task 2 --set validation_fraction=0.3", "cannot change between two tasks"),
    "another benchmark": ("--at-task 2 --set c=2 --benchmark split-mnist", "--benchmark does not go with --fork"),
    "other seeds": ("--at-task 2 --set c=2 --seeds 3", "--seeds does not go with --fork"),
    "a resume": ("--at-task 2 --set c=2 --resume x", "--resume does not go with --fork"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_calls_are_one_line(case, recorded, cli, tmp_path):
    words, message = BAD[case]
    home = recorded.parent
    _, runs = runs_of(uri_of(home))
    (trial,) = matrices(recorded)
    refused(cli("--fork", runs[trial].info.run_id, *shlex.split(words), "--home", home), message)
    assert {path.name for path in home.iterdir() if path.is_dir()} == {recorded.name, "mlflow-artifacts"}


def test_runs_that_cannot_be_forked(recorded, cli):
    _, runs = runs_of(uri_of(recorded.parent))
    words = ["--at-task", "2", "--set", "c=2", "--home", recorded.parent]
    refused(cli("--fork", "0" * 32, *words), "there is no run")
    refused(cli("--fork", runs[""].info.run_id, *words), "is a whole sweep")
    refused(cli("--at-task", "2", "--method", "hat"), "--at-task goes with --fork alone")
