"""``--keep`` and ``--keep-bytes``: what is taken away of trials that only pretend to train, when, and what is said of it."""

import json
from statistics import fmean

import pytest
from again_kit import runs_of, uri_of
from fake_packs import TASKS, Rig, accuracy, die, play, report
from sweep_kit import HAT, events, listing, matrices, only_folder

from clcore.errors import BadValue, UserError
from sweeps.keeping import Keeper, Retention, bytes_of, check_retention, kept_lines
from sweeps.search import Grid
from sweeps.spaces import Space
from trackers import many
from trackers.kept import boundary
from trackers.model import log_model
from trackers.record import load

BEST = Retention("best")


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path / "home")


def score(trial):
    return fmean(accuracy(trial, "validation", TASKS, u) for u in range(TASKS))


def having(sweep, file="checkpoint.safetensors"):
    """The trials that have a file."""
    return {path.parent.name for path in (sweep.folder / "trials").glob(f"*/{file}")}


def ranked(sweep, trials=None):
    """Trials of one seed, the best first."""
    return sorted(trials or [t for t, r in sweep.record.trials.items() if r.role == "trial"], key=score, reverse=True)


def kept_of(sweep, trial):
    return json.loads((sweep.folder / "trials" / trial / "config.json").read_text())["kept"]


# -- the best alone ----------------------------------------------------------------------------------------------------------


def test_only_the_best_so_far_keeps_weights_and_masks(rig):
    sweep = rig.sweep(keep=BEST)
    ((first, _),) = play(sweep, packs=1)
    leader = ranked(sweep, [t.identity for t in first.trials])[0]
    assert having(sweep) == having(sweep, "masks.parquet") == {leader}
    play(sweep)
    best, *others = ranked(sweep)
    assert having(sweep) == having(sweep, "masks.parquet") == {best}
    assert having(sweep, "accuracy.parquet") == having(sweep, "config.json") == {best, *others}
    assert kept_of(sweep, best) == {"weights": True, "masks": True, "boundaries": [], "dropped": {}}
    why = {"weights": "--keep best", "masks": "--keep best"}
    assert kept_of(sweep, others[0]) == {"weights": False, "masks": False, "boundaries": [], "dropped": why}
    dropped = {event["trial"]: (event["parts"], event["bytes"]) for event in events(sweep.folder, "dropped")}
    assert dropped == dict.fromkeys(others, (["weights", "masks"], 12 + 5))
    assert kept_lines(load(sweep.folder)) == ["kept           weights and masks of 5 trial(s) were not kept (--keep best)"]


def test_with_several_seeds_nothing_goes_before_all_of_them_are_decided(rig):
    sweep = rig.sweep(keep=BEST, seeds=(0, 1), size=6)
    play(sweep, packs=1)
    assert len(having(sweep)) == 6
    play(sweep)
    groups = {}
    for trial in sweep.record.trials.values():
        groups.setdefault(trial.config, set()).add(trial.trial)
    assert having(sweep) == max(groups.values(), key=lambda group: fmean(map(score, group)))


def test_a_configuration_that_may_still_be_the_best_keeps_its_own(rig):
    sweep = rig.sweep(keep=BEST, seeds=(0, 1), size=1)
    play(sweep, packs=3)  # the packs are seed by seed of a configuration, or all of a seed first: no matter
    done = {t.config for t in sweep.record.trials.values() if t.status == "done"}
    undecided = {t.config for t in sweep.record.trials.values() if t.status == "open"} & done
    kept = {sweep.record.trials[t].config for t in having(sweep)}
    assert undecided <= kept


def test_references_and_failed_seeds(rig):
    sweep = rig.sweep(keep=BEST, references=True)
    bad = ranked(sweep)[0]
    play(sweep, failing={bad})
    assert having(sweep) == {ranked(sweep)[1]}
    assert all(t.rho is not None for t in sweep.record.trials.values() if t.role == "trial" and t.status == "done")


def test_what_another_sweep_has_run_counts_and_stays_there(rig):
    everything = rig.sweep("other")
    best, second = ranked(everything)[:2]
    values = everything.record.trials[best].hyperparameters
    die(everything)
    one = rig.sweep("one", Grid(Space("grid", values={"c": (values["c"],), "smax": (values["smax"],)})))
    play(one)
    die(one)
    two = rig.sweep("two", keep=BEST)
    play(two)
    assert having(one) == {best}
    assert having(two) == {second}  # the best of its own: it has nothing else to show


def test_what_was_said_to_go_goes_when_the_driver_died(rig, monkeypatch):
    sweep = rig.sweep(keep=BEST)
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "_take_away", lambda *_: None)
        play(sweep, packs=1)
    assert len(having(sweep)) == 3
    die(sweep)
    again = rig.sweep(keep=BEST)
    assert len(having(again)) == 1
    assert len(events(again.folder, "dropped")) == 2
    play(again)
    assert having(again) == {ranked(again)[0]}


def test_a_sweep_that_goes_on_may_keep_less(rig):
    sweep = rig.sweep()
    play(sweep)
    die(sweep)
    again = rig.sweep(keep=BEST)
    assert play(again) == []
    assert having(again) == {ranked(again)[0]}
    die(again)
    assert len(having(rig.sweep())) == 1  # what is gone stays gone


# -- a budget ----------------------------------------------------------------------------------------------------------------


def test_beyond_the_budget_the_worst_go_first(rig):
    sweep = rig.sweep(keep=Retention(budget=2 * 12 + 11))  # a trial's weights are 12 bytes
    play(sweep)
    best = ranked(sweep)
    assert having(sweep) == {*best[:2]}
    assert having(sweep, "masks.parquet") == {*best}
    assert kept_of(sweep, best[3])["dropped"] == {"weights": "--keep-bytes 35 B"}
    assert kept_lines(sweep.record) == ["kept           weights of 4 trial(s) were not kept (--keep-bytes 35 B)"]
    die(sweep)
    again = rig.sweep(keep=Retention(budget=12))
    assert having(again) == {best[0]}


def test_states_at_boundaries_go_before_the_last_one(rig):
    sweep = rig.sweep(size=3)
    play(sweep)
    for trial in sweep.record.trials:
        (own := sweep.folder / "trials" / trial / boundary(1)).mkdir()
        (own / "state.json").write_text("8 bytes.")
    die(sweep)
    best = ranked(sweep)
    again = rig.sweep(keep=Retention(budget=3 * (12 + 8) + 12 + 5))
    assert having(again) == {*best[:4]}
    assert {path.parts[-2] for path in again.folder.glob("trials/*/after-01")} == {*best[:3]}
    assert "states at boundaries of 1 more trial(s)" in kept_lines(again.record)[0]


def test_a_budget_that_is_kept_takes_nothing(rig):
    sweep = rig.sweep(keep=Retention(budget=6 * 12))
    play(sweep)
    assert len(having(sweep)) == 6
    assert not events(sweep.folder, "dropped")
    assert kept_lines(sweep.record) == []


def test_a_failed_trial_leaves_no_states(rig):
    sweep = rig.sweep()
    pack, _ = sweep.next_pack()
    sweep.started(pack.identity)
    report(sweep, pack, 0)
    bad, good = (trial.identity for trial in pack.trials[:2])
    for trial in (bad, good):
        (sweep.folder / "trials" / trial / boundary(1)).mkdir(parents=True)
    report(sweep, pack, 1, failing={bad})
    assert [(sweep.folder / "trials" / trial).exists() for trial in (bad, good)] == [False, True]


# -- what is asked -----------------------------------------------------------------------------------------------------------


def test_bytes_as_people_write_them():
    said = {"2GB": 2 * 10**9, "500M": 5 * 10**8, "1.5 kB": 1500, "1k": 1000, "7": 7, "3tb": 3 * 10**12}
    assert {text: bytes_of(text) for text in said} == said
    for text in ("", "0", "0.5", "-1M", "2XB", "many", "1e9", "2 G B", "٣", "9" * 40):
        with pytest.raises(BadValue, match="500M or 2GB"):
            bytes_of(text)


def test_what_cannot_be_kept():
    with pytest.raises(UserError, match="stream"):
        check_retention(Retention("every-task"), "task-free", True)
    with pytest.raises(UserError, match="validation=none"):
        check_retention(BEST, "task-il", False)
    check_retention(Retention("every-task"), "class-il", False)


def test_bad_options_are_one_line(cli, tmp_path):
    for words, message in (
        ("--keep bset", "Did you mean 'best'"),
        ("--keep-bytes lots", "--keep-bytes = 'lots' is not allowed"),
        ("--keep best --set validation=none --set protocol=fixed", "chooses on validation data"),
    ):
        said = cli("--method", "hat", *words.split(), "--home", "new")
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
        assert message in said.err
    assert listing(tmp_path) == {}


# -- through the command, and in MLflow --------------------------------------------------------------------------------------


def test_mlflow_gets_the_weights_of_the_best_at_the_end(cli, home, cells):
    words = [*HAT, "--space", cells, "--pack", "2", "--home", home, "--keep", "best"]
    said = cli(*words)
    assert said.code == 0, said.out + said.err
    assert "weights and masks of 3 trial(s) were not kept (--keep best)" in said.out
    sweep = only_folder(home)
    (best,) = [path.parent.name for path in sweep.glob("trials/*/checkpoint.safetensors")]
    assert best == max(files := matrices(sweep), key=lambda trial: fmean(files[trial]["validation"][-1].tolist()))
    client, runs = runs_of(uri_of(home))
    for trial, run in ((trial, run) for trial, run in runs.items() if trial):
        sent = {item.path for item in client.list_artifacts(run.info.run_id)}
        heavy = {"checkpoint.safetensors", "masks.parquet"}
        assert {"accuracy.parquet", "config.json"} <= sent
        assert heavy & sent == (heavy if trial == best else set())
        if trial != best:
            with pytest.raises(UserError, match=r"the weights of this trial were not kept \(--keep best\)"):
                log_model(run.info.run_id, uri_of(home))
    for where in (home, uri_of(home)):
        with pytest.raises(UserError, match=r"the masks of this trial were not kept \(--keep best\)"):
            many.masks(many.trials(where))
