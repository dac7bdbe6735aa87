"""Spaces: the papers' grids, sampled ranges, and files of a user's own."""

from itertools import product

import optuna
import pytest

from clcore.errors import UserError
from sweeps.search import _distribution
from sweeps.settings import validated
from sweeps.spaces import Range, describe, find_space


def space(method="hat", space="grid", **values):
    return find_space(validated({"method": method, "space": space, **values}))


def from_file(tmp_path, text, method="hat", **values):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return space(method, str(path), **values)


def test_hats_grid_is_the_papers_six_by_eight():
    # Serra et al. 2018, section 4.3 and Fig. 5: s_max in {25, 50, 100, 200, 400, 800}, c in {.1, .25, .5, .75, 1, 1.5, 2.5, 4}
    found = space()
    assert found.search == "grid"
    assert {(cell["smax"], cell["c"]) for cell in found.cells()} == set(
        product((25, 50, 100, 200, 400, 800), (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0))
    )
    assert len(found.cells()) == 48


def test_what_one_sweep_has_one_of_is_no_part_of_a_space(tmp_path):
    with pytest.raises(UserError, match=r"dropout belongs to benchmark and network.*--set dropout=VALUE"):
        from_file(tmp_path, "[values]\ndropout = [0.0, 0.5]\n")


def test_tfms_grid_has_24_cells():
    cells = space("tfm").cells()
    assert len(cells) == 24
    wanted = set(product((0.25, 0.40, 0.55, 0.70), (0.02, 0.05, 0.07), (True, False)))
    assert {(cell["p1"], cell["growth"], cell["fn"]) for cell in cells} == wanted


def test_set_of_a_grid_key_collapses_its_axis():
    cells = space(assign={"smax": "200"}).cells()
    assert len(cells) == 8
    assert all(cell.keys() == {"c"} for cell in cells)
    assert space(assign={"smax": "200", "c": "1"}).cells() == [{}]


def test_default_is_one_cell_whatever_is_set():
    assert space(space="default").cells() == [{}]
    assert space(space="default", assign={"smax": "9"}).cells() == [{}]


def test_sampled_spaces_hold_numbers_and_switches():
    found = space("tfm", "tpe")
    assert found.search == "tpe"
    assert found.ranges["p1"] == Range(0.2, 1.0)
    assert set(found.ranges["fn"].choices) == {True, False}
    drawn = {
        optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=s))
        .ask({"fn": _distribution(found.ranges["fn"])})
        .params["fn"]
        for s in range(8)
    }
    assert drawn == {True, False}  # real booleans, not their text
    assert all(type(value) is bool for value in drawn)


def test_hats_ranges_are_logarithmic():
    found = space(space="random")
    assert found.ranges["smax"].log
    assert found.ranges["c"].low < 0.1 < 4.0 <= found.ranges["c"].high
    assert "smax" not in space(space="random", assign={"smax": "3"}).ranges


def test_a_method_without_ranges_has_nothing_to_sample():
    with pytest.raises(UserError, match="nothing to sample"):
        space("finetune", "tpe")
    assert space("finetune").cells() == [{}]


def test_a_grid_from_a_file(tmp_path):
    found = from_file(tmp_path, '[values]\nsmax = [100, 400]\nlr = [0.05, 1e-2]\noptimizer = ["sgd", "adam"]\n')
    assert found.search == "grid"
    assert len(found.cells()) == 8
    assert found.cells()[0] == {"smax": 100.0, "lr": 0.05, "optimizer": "sgd"}
    assert [cell["optimizer"] for cell in found.cells()[:2]] == ["sgd", "adam"]  # the last key changes fastest


def test_the_same_value_twice_is_one_cell(tmp_path):
    assert from_file(tmp_path, "[values]\nsmax = [100, 100.0, 200]").values["smax"] == (100.0, 200.0)


def test_ranges_from_a_file(tmp_path):
    text = 'search = "random"\n[ranges]\nc = {low = 0.1, high = 2, log = true}\nepochs = {low = 1, high = 9}\n'
    text += 'optimizer = ["sgd", "adam"]'
    found = from_file(tmp_path, text)
    assert found.ranges == {
        "c": Range(0.1, 2.0, log=True),
        "epochs": Range(1, 9, whole=True),
        "optimizer": Range(choices=("sgd", "adam")),
    }
    assert describe(found) == "c in [0.1, 2] log, epochs in [1, 9], optimizer in {sgd, adam}"


BAD = {
    "a typo in a key": ("[values]\nsmaxx = [1]", "Did you mean 'smax'"),
    "another method's key": ("[values]\ngrowth = [0.1]", "unknown"),
    "a typo in the section": ("[valuse]\nsmax = [1]", "valuse"),
    "a typo in the search": ('search = "tep"\n[ranges]\nc = [1.0]', "Did you mean 'tpe'"),
    "no section": ('search = "grid"', "non-empty section"),
    "an empty section": ("[values]", "non-empty section"),
    "the wrong section": ("[ranges]\nc = {low = 1, high = 2}", "non-empty section"),
    "both sections": ("[values]\nc = [1]\n[ranges]\nc = [1]", "no \\[ranges\\]"),
    "values that are no section": ("values = 3", "non-empty section"),
    "an empty grid": ("[values]\nsmax = []", "non-empty list"),
    "a value that is no list": ("[values]\nsmax = 3", "non-empty list"),
    "the wrong type": ('[values]\nsmax = ["high"]', "smax"),
    "a list in a list": ("[values]\nsmax = [[1]]", "smax"),
    "out of range": ("[values]\nlr = [-0.1]", "lr"),
    "a fraction of epochs": ("[values]\nepochs = [1.5]", "epochs"),
    "a switch for a number": ("[values]\nepochs = [true]", "epochs"),
    "an unknown choice": ('[values]\noptimizer = ["sdg"]', "optimizer"),
    "low above high": ('search = "tpe"\n[ranges]\nc = {low = 2, high = 1}', "low < high"),
    "low at high": ('search = "tpe"\n[ranges]\nc = {low = 1, high = 1}', "low < high"),
    "log from zero": ('search = "tpe"\n[ranges]\nc = {low = 0, high = 1, log = true}', "low > 0"),
    "log of text": ('search = "tpe"\n[ranges]\nc = {low = 1, high = 2, log = "yes"}', "low < high"),
    "a typo in a range": ('search = "tpe"\n[ranges]\nc = {low = 1, hihg = 2}', "a table"),
    "a range of text": ('search = "tpe"\n[ranges]\noptimizer = {low = 1, high = 2}', "list of choices"),
    "infinity": ('search = "tpe"\n[ranges]\nc = {low = 1, high = inf}', "c"),
    "not TOML": ("values: smax", "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, tmp_path):
    text, message = BAD[case]
    with pytest.raises(UserError, match=message) as error:
        from_file(tmp_path, text)
    assert "\n" not in str(error.value).strip()


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        space(space=str(tmp_path / "none.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        space(space=str(tmp_path / "folder.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        space(space=str(tmp_path / "bytes.toml"))


def test_set_against_a_file_that_varies_the_key(tmp_path):
    with pytest.raises(UserError, match="left out"):
        from_file(tmp_path, "[values]\nsmax = [1, 2]", assign={"smax": "3"})


def test_an_unknown_space():
    with pytest.raises(UserError, match="Did you mean 'grid'"):
        space(space="gird")


def test_describe_a_grid():
    assert describe(space("tfm")) == "p1 {0.25, 0.4, 0.55, 0.7} x growth {0.02, 0.05, 0.07} x fn {true, false}"
    assert describe(space(space="default")) == "one configuration"
