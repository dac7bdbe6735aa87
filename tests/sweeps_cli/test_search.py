"""Who proposes configurations: a grid, and a study that is read back here with Optuna itself."""

import optuna
import pytest
from optuna.trial import TrialState
from sweep_kit import stored

from sweeps.search import Grid, Study
from sweeps.spaces import Range, Space

RANGES = {"x": Range(0.1, 10.0, log=True), "n": Range(1, 99, whole=True), "fn": Range(choices=(True, False))}


@pytest.fixture(params=["random", "tpe"])
def make(request, tmp_path):
    def study(trials=10, planned=None, seed=0, path=tmp_path / "study.log"):
        made = Study(Space(request.param, ranges=RANGES), path, seed, trials)
        if planned is not None:
            made.continue_from(planned)
        return made

    study.path = tmp_path / "study.log"
    return study


def test_a_grid_gives_each_cell_once():
    grid = Grid(Space("grid", values={"a": (1, 2), "b": (3, 4, 5)}))
    first, second = grid.ask(4), grid.ask(4)
    assert [len(first), len(second), len(grid.ask(4))] == [4, 2, 0]
    assert [values for _, values in first + second] == [{"a": a, "b": b} for a in (1, 2) for b in (3, 4, 5)]
    assert all(number is None for number, _ in first + second)


def test_proposals_are_within_their_ranges_and_typed(make):
    for _, values in make(30).ask(30):
        assert 0.1 <= values["x"] <= 10
        assert 1 <= values["n"] <= 99
        assert type(values["n"]) is int
        assert type(values["fn"]) is bool


def test_asks_end_at_the_number_of_trials(make):
    study = make(5)
    assert [len(study.ask(3)), len(study.ask(3)), len(study.ask(3))] == [3, 2, 0]
    assert len(stored(make.path)) == 5


def test_the_same_seed_proposes_the_same(make, tmp_path):
    first, again = make(4).ask(4), make(4, path=tmp_path / "b" / "study.log").ask(4)
    other = make(4, seed=1, path=tmp_path / "c.log").ask(4)
    assert first == again
    assert first != other


def test_a_continued_study_repeats_no_point_and_counts_what_is_there(make):
    study = make(10)
    first = study.ask(6)
    for number, _ in first:
        study.tell(number, 0.5)
    more = make(10, planned=[number for number, _ in first]).ask(10)
    assert len(more) == 4
    points = [tuple(values.values()) for _, values in first + more]
    assert len(set(points)) == 10
    assert [number for number, _ in more] == [6, 7, 8, 9]


def test_more_trials_can_be_asked_of_a_finished_study(make):
    study = make(3)
    for number, _ in study.ask(3):
        study.tell(number, 0.5)
    assert len(make(5, planned=[0, 1, 2]).ask(9)) == 2


def test_what_was_proposed_but_never_planned_is_handed_out_again(make):
    asked = make(5).ask(4)
    again = make(5, planned=[0, 2]).ask(2)  # the driver died before 1 and 3 were in its journal
    assert again == [asked[1], asked[3]]
    late = make(5, planned=[0, 1, 2, 3]).ask(9)
    assert [number for number, _ in late] == [4]


def test_a_proposal_that_was_half_written_is_failed_and_replaced(make):
    study = make(3)
    study.ask(1)
    study._study.ask({"x": optuna.distributions.FloatDistribution(0.1, 10.0, log=True)})  # died before n and fn
    assert [number for number, _ in make(3, planned=[0]).ask(9)] == [2, 3]
    assert [trial.state for trial in stored(make.path)][:2] == [TrialState.RUNNING, TrialState.FAIL]


def test_a_score_is_told_once(make):
    study = make(3)
    study.ask(3)
    study.tell(0, 0.25)
    study.tell(0, 0.75)
    study.tell(0, None)
    study.tell(1, None)
    study.tell(1, 0.5)
    study.tell(2, float("nan"))
    found = [(trial.state, trial.value) for trial in stored(make.path)]
    assert found == [(TrialState.COMPLETE, 0.25), (TrialState.FAIL, None), (TrialState.FAIL, None)]


def test_the_study_looks_for_high_scores(tmp_path):
    study = Study(Space("tpe", ranges={"x": Range(0.0, 1.0)}), tmp_path / "s.log", 0, 60)
    for _ in range(60):
        ((number, values),) = study.ask(1)
        study.tell(number, values["x"])
    points = [trial.params["x"] for trial in stored(tmp_path / "s.log")]
    assert sum(points[-20:]) / 20 > 0.75 > sum(points[:10]) / 10
