"""Levels of knobs, tables and the papers' counts: parts of studies that need no sweep."""

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from clcore import networks
from clcore.errors import BadValue, UnknownName, UserError
from clcore.methods import METHODS, Layout
from sweeps import study
from sweeps.elsewhere import finished_elsewhere
from sweeps.studies import draw_grid, draw_lines, knobs, running
from sweeps.studies.anova import Part
from sweeps.studies.measured import Kind, measured
from sweeps.studies.options import Common
from sweeps.studies.overhead import FORMULAS, size_of
from sweeps.studies.plan import space_file
from sweeps.studies.tables import Estimate, Table, number, p_value


@pytest.mark.parametrize("method", sorted(knobs.NAMED))
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_levels_ascend_and_hold_the_default(method, count):
    for name in knobs.named_knobs(method, None):
        found = knobs.levels(method, name, count, {})
        numbers = [value for value in found if value is not None]
        assert knobs.starting_value(method, name, {}) in found
        assert numbers == sorted(set(numbers))
        assert len(found) == count


def test_levels_are_the_papers_where_they_are_enough():
    assert knobs.levels("hat", "c", 8, {}) == (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 4.0)
    assert knobs.levels("hat", "smax", 4, {}) == (25.0, 100.0, 400.0, 800.0)
    assert knobs.levels("hat", "c", 3, {"c": "3.3"}) == (0.1, 1.0, 3.3)  # what --set says is a level too
    assert knobs.levels("supsup", "lr", 3, {}) == (1e-05, 0.0001, 0.001)  # a factor of ten to both sides
    assert knobs.levels("hnet", "chunk", 3, {}) == (None, 1000, 16000)
    assert knobs.levels("gem", "stored", 3, {}) == (64, 256, 1024)
    assert knobs.levels("gem", "stored", 7, {}) == (64, 100, 160, 256, 410, 650, 1000)  # more than are listed: by 1.59, two digits


def test_wrong_knobs_name_the_nearest():
    with pytest.raises(UnknownName, match="'smax'"):
        knobs.named_knobs("hat", ["smex"])
    with pytest.raises(UserError, match="ewc needs --knobs"):
        knobs.named_knobs("ewc", None)
    with pytest.raises(BadValue, match="different"):
        knobs.named_knobs("hat", ["c", "c"])
    with pytest.raises(BadValue, match="4x4"):
        knobs.cells_of("3x", ("smax", "c"))
    assert knobs.cells_of("3x5", ("smax", "c")) == (3, 5)
    assert knobs.cells_of("3", ("smax", "c")) == (3, 3)


def test_every_wrong_call_is_one_line_and_writes_nothing(tmp_path, capsys):
    home = tmp_path / "home"
    calls = {
        "robustness --method hatt": "'hat'",
        "robustness": "--method",
        "robustness --method hat --knobs smex,c": "'smax'",
        "robustness --method hat --knobs smax,c,lr": "one or two",
        "robustness --method hat --set c=1": "left out",
        "robustness --method hat --cells 1": "--cells",
        "robustness --method hat --cells 1x1": "--cells",
        "robustness --method finetune": "finetune needs --knobs",
        "compression --methods hnet --isolated": "name hat",
        "robustness --method hat --benchmark permuted-digit": "'permuted-digits'",
        "robustness --method hat --space grit": "'grid'",
        "robustness --method hat --space tpe --knobs c": "--knobs",
        "robustness --method hat --trials 3": "--cells",
        "compare --methods hat,fintune": "'finetune'",
        "compare --methods hat,hat": "different",
        "compare --methods hat,tfm --set hatt.c=1": "'hat'",
        "compare --methods hat,tfm --set c=1": "'cap'",
        "compare --methods hat --tune 0": "--tune",
        "compare --methods hat --dry-run --from-record": "--from-record",
        "compression --methods hat --cells 1": "--cells",
        "compression --methods hat --nework mlp:3": "--network",
    }
    for call, said in calls.items():
        assert study.main([*call.split(), "--home", str(home)]) == 2, call
        line = capsys.readouterr().err
        assert line.startswith("clsweep: ")
        assert line.count("\n") == 1
        assert said in line, call
    assert not home.exists()


def test_a_report_of_nothing_is_refused(tmp_path, capsys):
    calls = {
        "compare --methods hat --benchmark nosuch": "'nosuch'",
        "compare --methods hat --network mlp:x": "mlp:x",
        "compare --methods hat --network mine.py": "mine.py",
        "compression --methods hat --network bogus": "'bogus'",
        "compare --methods hat --scenario task-li": "'task-il'",
        "compare --methods hat --tracking-uri foo://x": "unknown scheme 'foo'",
        "compare --methods hat,finetune": "has nothing of this study",
        "compare --methods hat --tune 2": "has nothing of this study",
        "robustness --method hat --space random": "has nothing of this study",
    }
    for call, said in calls.items():
        assert study.main([*call.split(), "--home", str(tmp_path), "--from-record"]) == 2, call
        out, err = capsys.readouterr()
        assert (err.startswith("clsweep: "), err.count("\n")) == (True, 1)
        assert said in err, call
        assert ("missing        " in out) == ("nothing" in said), call
    assert {path.name for path in tmp_path.rglob("*") if path.suffix != ".toml"} <= {"studies", "spaces"}


@pytest.mark.parametrize("name", networks.NETWORKS.names())
def test_a_network_of_ours_is_checked_without_data(name):
    given = name + (":8" if name == "mlp" else "")
    running.check_names(Common({"home": Path("runs"), "network": given, "tracking_uri": "sqlite:///mlflow.db"}, {}), "finetune")


ROWS = [
    ["a|b_c", Estimate(97.125, 0.5, 3, best=True), 3],
    ["<d>", Estimate(math.nan, math.nan, 0), 0],
    ["e", Estimate(5.0, math.nan, 1), 1],
]
TABLE = Table("t", "of 50 % & more_", ["what", "accuracy, %", "n"], ROWS)


def test_a_table_in_markdown_and_html():
    lines = TABLE.markdown().splitlines()
    assert lines[2] == "| a\\|b_c | **97.12 ± 0.50** | 3 |"
    assert lines[4] == "| e | 5.00 | 1 |"
    html = TABLE.html()
    assert "<strong>97.12 ± 0.50</strong>" in html
    assert "&lt;d&gt;" in html
    assert "<d>" not in html


def test_what_rounds_to_nothing_has_no_sign():
    assert Estimate(-0.001, 0.02, 3).text == "0.00 ± 0.02"
    assert [number(value) for value in (-0.004, -0.006, -1234.5)] == ["0.00", "-0.01", "-1,234.50"]


def test_a_table_in_csv_has_the_numbers_in_full():
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert rows[0]["accuracy, %"] == "97.125"
    assert rows[0]["accuracy, %, half of 95 % interval"] == "0.5"
    assert rows[0]["accuracy, %, n"] == "3"
    assert rows[1]["accuracy, %"] == ""
    assert rows[2]["accuracy, %, half of 95 % interval"] == ""


def test_a_table_in_latex_escapes_what_latex_reads():
    text = TABLE.latex()
    assert r"\textbf{97.12 $\pm$ 0.50}" in text
    assert r"of 50 \% \& more\_" in text
    assert r"a|b\_c" in text
    assert text.count(r"\\") == 4


def test_probabilities_as_papers_print_them():
    assert [p_value(p) for p in (0.0625, 0.0001, 1.0, math.nan)] == [".062", "< .001", "1", "–"]  # noqa: RUF001


def test_an_estimate_is_mean_and_students_interval():
    found = Estimate.of([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2.0, 3)
    assert found.half == pytest.approx(4.3027 / math.sqrt(3))
    assert Estimate.of([7.0]).text == "7.00"


@pytest.mark.parametrize(("kept", "holds"), [
    ('{"format": 2, "rows": [{"task": 0, "bytes": 4}]}', True),
    ('[{"task": 0, "bytes": 4}]', True),  # the format before
    ('{"format": 2, "rows": [{"task": 0, "by', False), ("", False), ("7", False), ('{"rows": []}', False),
    ('{"format": 3, "rows": []}', False), ('{"format": 2, "rows": [{"task": 0}]}', False),
    ('{"format": 2, "rows": [{"task": 0, "bytes": "4"}]}', False), ('{"format": 2, "rows": {}}', False), ("\xff", False),
])  # fmt: skip
def test_what_was_measured_is_read_or_measured_again(kept, holds, tmp_path, monkeypatch):
    monkeypatch.setattr("trackers.predictors.stored_predictor", lambda *_: ("predictor", "benchmark"))
    trial = SimpleNamespace(identity="1a", configuration=SimpleNamespace(names=()))
    answers = SimpleNamespace(home=tmp_path, files=lambda _: tmp_path)
    path = tmp_path / "studies" / "sizes" / "1a.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(kept.encode("latin-1"))
    found = measured(trial, Kind("sizes", {"task": int, "bytes": int}), answers, None, lambda *_: [{"task": 0, "bytes": 5}])
    assert found == [{"task": 0, "bytes": 4 if holds else 5}]
    if not holds:
        assert json.loads(path.read_text()) == {"format": 2, "rows": [{"task": 0, "bytes": 5}]}


def test_of_many_curves_ten_have_a_colour():
    names = [f"m{number}" for number in range(12)]
    assert draw_lines.shown_of(names[:10], ()) == names[:10]
    assert draw_lines.shown_of(["joint", *names, "finetune"], ("joint", "finetune")) == ["joint", *names[:8], "finetune"]
    assert draw_lines.shown_of(names, ("joint",)) == names[:8]


@pytest.fixture
def texts(monkeypatch):
    """Words of the pictures drawn, in place of files."""
    found = []

    def save(made, path):
        legends = [axes.get_legend() for axes in made.axes if axes.get_legend()]
        found.extend(text.get_text() for axes in made.axes for text in axes.texts)
        found.extend(text.get_text() for legend in legends for text in legend.get_texts())

    monkeypatch.setattr("trackers.pictures_kit.save", save)
    return found


def test_other_curves_are_one_entry_of_the_legend(texts, tmp_path):
    curves = {f"m{number}": [[90.0 - number, 80.0 - number]] * 2 for number in range(13)}
    draw_lines.draw_curves(tmp_path / "c.png", curves, "t", ("m12",))
    assert texts == [*(f"m{number} (n = 2)" for number in (*range(8), 12)), "4 others"]


def test_what_does_not_vary_is_said(texts, tmp_path):
    parts = [Part(name, 0.0, 1, math.nan, math.nan, math.nan) for name in "abcd"]
    varied = [Part(name, 1.0, 1, 1.0, 0.5, 0.25) for name in "abcd"]
    draw_grid.draw_variance(tmp_path / "v.png", {"accuracy": varied, "forgetting": parts})
    assert texts.count("does not vary") == 1
    assert texts.count("25") == 4


def test_a_damaged_sweep_is_warned_of_once(tmp_path, caplog):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "journal.jsonl").write_bytes(b"{}\n")
    for _ in range(3):
        assert finished_elsewhere(tmp_path / "studies") == {}
    assert caplog.text.count("nothing of x is used") == 1


def benchmark(classes, scenario):
    return SimpleNamespace(scenario=scenario, tasks=[SimpleNamespace(classes=range(c)) for c in classes])


def method(name, scenario="task-il", tasks=3, **values):
    found = METHODS.get(name)
    network = networks.build("mlp:100-100", (1, 28, 28), 0)
    return found(found.Hyper(**values), network, Layout(scenario, (2,) * tasks))


def test_the_papers_counts_by_hand():
    """784-100-100 and heads of 2 classes: W = 88,400 weights, F = 200 units, biases 200, a head 202 numbers."""
    size = size_of(method("finetune"), benchmark([2, 2, 2], "task-il"))
    assert (size.weights, size.first, size.features, size.body, size.heads) == (88_400, 78_400, 200, 88_600, (202, 404, 606))
    assert size.sides == (784 + 100) + (100 + 100)
    assert size_of(method("finetune", "domain-il"), benchmark([2, 2, 2], "domain-il")).heads == (202, 202, 202)
    assert size_of(method("hat", "domain-il"), benchmark([2, 2, 2], "domain-il")).heads == (202, 404, 606)  # HAT's are private
    plain = 4 * (88_600 + 606)
    assert size.plain(3) == FORMULAS["finetune"].bytes(size, 3) == plain
    assert size.separate(3) == 4 * (3 * 88_600 + 606)
    counts = {
        "hat": (plain, 3 * 200 * 4),
        "tfm": (plain, 3 * 200 / 4 + 2 * 200 * 8),
        "packnet": (plain, 3 * 88_400 / 8),
        "rmn": (plain, 3 * 88_400 / 8),
        "supsup": (0, 3 * 88_400 / 8 + 606 / 8),
        "batche": (plain, 3 * (884 + 200) * 4),
        "ewc": (plain, 88_400 * 4),
        "lwf": (plain, 88_600 * 4),
    }
    for name, (network, overhead) in counts.items():
        formula = FORMULAS[name]
        assert (formula.overhead(size, 3), formula.bytes(size, 3)) == (overhead, network + overhead), name


def test_the_count_of_a_hypernetwork_by_hand():
    """P = 88,600 + 3 heads of 202 = 89,206 outputs in 90 chunks of 1000; 32 + 8 numbers in, 25 and 25 hidden."""
    made = method("hnet", chunk=1000, layers="25-25", embedding_size=32, chunk_embedding_size=8)
    size = size_of(made, benchmark([2, 2, 2], "task-il"))
    theta = 90 * 8 + (40 * 25 + 25) + (25 * 25 + 25) + (25 * 1000 + 1000)
    assert (size.theta, size.embedding) == (theta, 32)
    assert [FORMULAS["hnet"].bytes(size, t) for t in (1, 3)] == [4 * (theta + 32), 4 * (theta + 3 * 32)]


def test_the_count_of_columns_by_hand():
    """Two tasks, two columns of 50-50: the second column reads both, and so does the second head."""
    size = size_of(method("pnn", tasks=2), benchmark([2, 2], "task-il"))
    first = 784 * 50 + 50 + 50 * 50 + 50
    second = 784 * 50 + 50 + 100 * 50 + 50
    heads = 2 * 50, 2 * 100
    biases = 2 / 2, 2  # a head's biases are counted with its weights, so that the first has half of them
    assert FORMULAS["pnn"].bytes(size, 1) == 4 * (first + heads[0] + biases[0])
    assert FORMULAS["pnn"].bytes(size, 2) == 4 * (first + second + sum(heads) + sum(biases))


def test_a_space_file_is_named_by_what_it_holds(tmp_path):
    one = space_file(tmp_path, "grid", {"chunk": [None, 1000], "fn": [True, False], "init": ["a", "b"]})
    assert one == space_file(tmp_path, "grid", {"chunk": [None, 1000], "fn": [True, False], "init": ["a", "b"]})
    assert one != space_file(tmp_path, "grid", {"chunk": [None, 2000], "fn": [True, False], "init": ["a", "b"]})
    import tomllib

    with open(one, "rb") as file:
        assert tomllib.load(file)["values"] == {"chunk": ["none", 1000], "fn": [True, False], "init": ["a", "b"]}


@pytest.mark.parametrize("name", ["robustness", "compression", "compare"])
def test_every_study_takes_what_all_of_them_share(name):
    options = [word for parameter in typer.main.get_command(study.app).commands[name].params for word in parameter.opts]
    assert len(options) == len(set(options))
    shared = (
        "--benchmark --network --scenario --tasks --classes-per-task --set --seeds --time-budget --home --tracking-uri --data-dir "
        "--pack --compile --executor --device --cpus --gpus-per-trial --workers --address --dry-run --from-record"
    )
    assert set(shared.split()) < set(options)
    assert "--shared" not in options
