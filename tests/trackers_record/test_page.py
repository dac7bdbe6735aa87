import base64
import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import torch
from fake_sweep import FakeSweep, item
from mlflow.tracking import MlflowClient

from clcore.masks import Mask
from sweeps import report
from trackers import artifacts, page, pictures_all
from trackers import pictures_kit as kit
from trackers.mlflow_tracker import Publisher
from trackers.page_html import Html, element, join
from trackers.record import load
from trackers.summary import configurations

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
VOID = {"meta", "img"}
COMMAND = "python sweeps/run.py --method tfm --set x=1 --seeds '0,' && echo <done>"


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, texts, and whether every element is closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)

    def tags(self, name):
        return [attrs for tag, attrs in self.elements if tag == name]


@pytest.fixture
def quick(monkeypatch):
    """Pictures are files of a few bytes; returns the names that were written."""
    written = []

    def save(made, path):
        written.append(path.name)
        path.write_bytes(b"\x89PNG made")

    monkeypatch.setattr(kit, "save", save)
    return written


def write(sweep, **facts):
    """The page of a sweep; facts replace what its first event says, where a journal with such names would not be read."""
    record = load(sweep.folder)
    record.calls[:] = [{**record.sweep, **facts}]
    report.write_report(sweep.folder, record, lambda best: f"{COMMAND} # {best.trial}")
    return Reader((sweep.folder / "report" / "index.html").read_text())


def finish(sweep, count=3, first=0, **changes):
    items = [item(number, **changes) for number in range(first, first + count)]
    sweep.pack(f"p{first}", items)
    sweep.start(f"p{first}")
    names = [one["trial"] for one in items]
    sweep.run_tasks(f"p{first}", names)
    for name in names:
        masks = {(t, "units1"): Mask("unit", torch.arange(20) % (t + 2) == 0) for t in range(3)}
        artifacts.write_masks(sweep.folder / "trials" / name / "masks.parquet", masks)
        sweep.done(name, f"p{first}")
    return names


def test_a_page_tells_the_sweep(sweep):
    finish(sweep)
    sweep.pack("px", [item(7)])
    sweep.start("px")
    sweep.failed(item(7)["trial"], "px", reason="the loss is not a number")
    sweep.journal.append("linked", trial="x1", config="c9", seed=0, sweep="older", method="tfm", hyperparameters={"growth": 0.1})
    sweep.end("failed", asked=5, done=3, skipped=1, failed=1)
    seen = write(sweep)
    best = configurations(load(sweep.folder))[0]
    for words in (
        sweep.name,
        "tfm on split-digits, task-il: ended, some failed",
        "varied: growth",
        "d1g35t",
        f"growth={best.choices['growth']:.4g}",
        f"{100 * best.mean('validation'):.1f} %",
        "the loss is not a number",
        "older",
        "5 asked, 3 done, 1 skipped, 1 failed",
        "python sweeps/run.py --resume tfm-grid-1234 --home runs",
        f"{COMMAND} # {best.finals[0].trial}",
        "torch 2.13.0",
        "0123abc",
    ):
        assert words in seen.text, words
    pictures = seen.tags("img")
    assert len(pictures) == 4 + 6
    for attributes in pictures:
        kind, data = attributes["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
        assert attributes["alt"]


def test_a_page_needs_nothing_else(sweep, quick):
    finish(sweep)
    seen = write(sweep)
    assert not {tag for tag, _ in seen.elements} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in seen.elements:
        assert not any(name.startswith("on") for name in attributes), tag
        assert not any(value and re.match(r"(https?:)?//", value) for value in attributes.values()), tag
        assert {"src", "href"} & set(attributes) <= {"src"} if tag == "img" else not {"src", "href"} & set(attributes)
    style = (sweep.folder / "report" / "index.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [a["content"] for a in seen.tags("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")


def test_hostile_names_stay_text(tmp_path, quick):
    sweep = FakeSweep(tmp_path / "s")
    named = dict.fromkeys(("method", "benchmark", "network", "scenario", "command", "data_digest", "git"), HOSTILE)
    named |= {"versions": {HOSTILE: HOSTILE}, "settings": {"space": HOSTILE, "seeds": [0], "home": HOSTILE}}
    sweep.sweep()
    for number in range(3):
        finish(sweep, 1, number, **{HOSTILE: f"{HOSTILE}{number}", "k": [HOSTILE, number]})
    sweep.pack("px", [item(7)])
    sweep.journal.append("failed", trial=item(7)["trial"], pack="px", reason=HOSTILE, where=None, traceback=HOSTILE)
    sweep.journal.append("stop", reason=HOSTILE, detail=HOSTILE)
    seen = write(sweep, name=HOSTILE, **named)
    assert seen.tags("script") == []
    assert all(attributes["src"].startswith("data:") for attributes in seen.tags("img"))
    assert not any(name.startswith("on") for _, attributes in seen.elements for name in attributes)
    assert seen.text.count(HOSTILE) >= 15


def test_a_page_of_nothing(sweep):
    sweep.journal.append("stop", reason="interrupted", detail="SIGINT")
    seen = write(sweep)
    assert "No trial has finished." in seen.text
    assert "stopped (interrupted: SIGINT), can be resumed" in seen.text
    assert seen.tags("img") == []


def test_a_page_without_validation_data_ranks_nothing(sweep, quick):
    one = item(0)
    sweep.pack("p", [one])
    for seen in range(6):
        sweep.task("p", seen, [sweep.member(one["trial"], seen, validation=None)])
    sweep.done(one["trial"], "p")
    assert "nothing is ranked" in write(sweep).text


def test_names_that_utf8_does_not_have(tmp_path, quick):
    sweep = FakeSweep(tmp_path / "s")
    sweep.sweep()
    assert "caf?" in write(sweep, command="caf\udce9").text


def test_escaping():
    assert element("p", "a<b", Html("<br>"), None, class_='"') == '<p class="&quot;">a&lt;b<br></p>'
    assert join("&", Html("&")) == "&amp;&"


# -- when pictures are drawn --------------------------------------------------------------------------------------------


def test_pictures_are_drawn_once(sweep, quick):
    finish(sweep)
    write(sweep)
    assert len(quick) == 4 + 6
    assert len(list((sweep.folder / "report").glob("*.png"))) == 4 + 6
    quick.clear()
    best = configurations(load(sweep.folder))[0].finals[0].trial
    (sweep.folder / "trials" / best / "samples.png").write_bytes(b"\x89PNG drawn by a worker")
    sweep.sweep(command="clsweep --resume x")
    sweep.end(asked=3, done=3)
    assert "ended, all done" in write(sweep).text  # the page is new
    assert quick == []
    finish(sweep, 1, first=5)
    write(sweep)
    assert "accuracy.png" in quick
    best = configurations(load(sweep.folder))[0].finals[0].trial
    made = (sweep.folder / "trials" / best / "samples.png").exists()
    assert (sweep.folder / "report" / "best_samples.png").exists() == made


def test_a_trial_that_ends_changes_the_pictures(sweep):
    seen = {pictures_all.fingerprint(load(sweep.folder))}
    sweep.pack("p", [item(0)])
    sweep.start("p")
    sweep.run_tasks("p", [item(0)["trial"]])
    for close in (sweep.failed, sweep.done):
        before = load(sweep.folder)
        close(item(0)["trial"], "p")
        seen |= {pictures_all.fingerprint(before), pictures_all.fingerprint(load(sweep.folder))}
    assert len(seen) == 4


def test_trials_get_pictures_as_the_sweep_runs_long(sweep, quick, monkeypatch):
    names = finish(sweep, 4)
    record = load(sweep.folder)
    found = configurations(record)
    order = [final.trial for configuration in found for final in configuration.finals]
    assert sorted(order) == sorted(names)

    def pictured():
        return [name for name in order if (sweep.folder / "trials" / name / "pictures").is_dir()]

    for seconds, count in ((0.0, 1), (121.0, 3), (1e6, 4)):
        record.seconds = seconds
        pictures_all.draw_trials(sweep.folder, record, found)
        assert pictured() == order[:count]
    assert len(quick) == 4 * 4
    assert not (sweep.folder / "drawing").exists()
    monkeypatch.setattr(pictures_all, "PICTURED", 2)
    for name in order:
        shutil.rmtree(sweep.folder / "trials" / name / "pictures")
    pictures_all.draw_trials(sweep.folder, record, found)
    assert pictured() == order[:2]


def test_a_damaged_file_costs_its_picture_alone(sweep, quick, caplog):
    (name,) = finish(sweep, 1)
    (sweep.folder / "trials" / name / "masks.parquet").write_bytes(b"damaged")
    write(sweep)
    assert {p.name for p in (sweep.folder / "trials" / name / "pictures").iterdir()} == {
        "matrix.png", "progress.png", "capacity.png",
    }  # fmt: skip
    assert "masks.parquet" in caplog.text


def test_a_picture_that_breaks_costs_itself_alone(sweep, quick, monkeypatch, caplog):
    finish(sweep)

    def draw_cost(path, record):
        raise ValueError("odd numbers")

    monkeypatch.setattr(pictures_all, "draw_cost", draw_cost)
    write(sweep)
    assert "odd numbers" in caplog.text
    assert "over_trials.png" in quick


def test_a_full_disk_surfaces(sweep, monkeypatch):
    finish(sweep)

    def save(made, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kit, "save", save)
    with pytest.raises(OSError, match="No space"):
        write(sweep)
    assert not (sweep.folder / "report" / "index.html").exists()


def test_pictures_of_a_trial_that_another_sweep_ran(tmp_path, quick):
    older = FakeSweep(tmp_path / "older", name="older")
    older.sweep()
    (name,) = finish(older, 1)
    sweep = FakeSweep(tmp_path / "newer", name="newer")
    sweep.sweep()
    one = item(0)
    sweep.journal.append(
        "linked", sweep="older", **{key: one[key] for key in ("trial", "config", "seed", "method", "hyperparameters")}
    )
    record = load(sweep.folder)
    record.trials[name] = load(older.folder).trials[name]
    report.write_report(sweep.folder, record, lambda best: COMMAND)
    assert (sweep.folder / "report" / "best_overlap.png").exists()
    assert not (sweep.folder / "trials").exists()
    assert not (older.folder / "trials" / name / "pictures").exists()


# -- in MLflow ----------------------------------------------------------------------------------------------------------


def by_role(client, role):
    experiment = client.get_experiment_by_name("cl/split-digits")
    return [run for run in client.search_runs([experiment.experiment_id]) if run.data.tags["cl.role"] == role]


def test_page_pictures_and_data_in_mlflow(sweep, uri, tmp_path, quick):
    finish(sweep)
    publisher = Publisher(sweep.folder, uri, tmp_path / "home" / "artifacts")
    publisher.publish()  # the trials' files are sent while the sweep runs, their pictures at its end
    write(sweep)
    sweep.end(asked=3, done=3)
    publisher.publish()
    client = MlflowClient(uri)
    (parent,) = by_role(client, "sweep")
    assert {"index.html", "parallel.png", "best_overlap.png"} <= {f.path for f in client.list_artifacts(parent.info.run_id)}
    trials = by_role(client, "trial")
    shown = [run for run in trials if "cl.pictures" in run.data.tags]
    assert len(shown) == 1
    assert {f.path for f in client.list_artifacts(shown[0].info.run_id, "pictures")} == {
        f"pictures/{name}.png" for name in ("matrix", "progress", "capacity", "overlap")
    }
    for run in (parent, *trials):
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == ("split-digits", "d1g35t")
        assert json.loads(used.dataset.source) == {"benchmark": "split-digits", "tasks": 5, "scenario": "task-il"}


def test_data_and_pictures_are_sent_once(sweep, uri, tmp_path, quick, monkeypatch):
    finish(sweep)
    write(sweep)
    sweep.end(asked=3, done=3)
    Publisher(sweep.folder, uri, tmp_path / "home" / "artifacts").publish()

    def refuse(*args, **kwargs):
        raise AssertionError("sent twice")

    for name in ("log_inputs", "log_artifacts", "log_batch"):
        monkeypatch.setattr(MlflowClient, name, refuse)
    again = Publisher(sweep.folder, uri, tmp_path / "home" / "artifacts")
    again.publish()


def test_each_trial_has_the_code_that_trained_it(tmp_path, uri):
    """Three trials of a sweep that went on with other code: before, across and after."""
    sweep, items = FakeSweep(tmp_path / "s"), [item(n) for n in range(3)]
    before, across, after = (one["trial"] for one in items)
    sweep.sweep()
    for name, one in zip("abc", items, strict=True):
        sweep.pack(name, [one])
    sweep.start("a")
    sweep.run_tasks("a", [before])
    sweep.done(before, "a")
    sweep.start("b")
    sweep.run_tasks("b", [across], [0, 1])
    sweep.sweep(git="4567def", versions={"torch": "2.14.0"})
    sweep.start("b", 2)
    sweep.run_tasks("b", [across], range(2, 6))
    sweep.done(across, "b")
    sweep.start("c")
    sweep.run_tasks("c", [after])
    sweep.done(after, "c")
    sweep.end(asked=3, done=3)
    Publisher(sweep.folder, uri, tmp_path / "artifacts").publish()
    client = MlflowClient(uri)
    tags = {run.data.tags["cl.trial"]: run.data.tags for run in by_role(client, "trial")}
    said = {n: (t["mlflow.source.git.commit"], t.get("cl.commits"), t["cl.version.torch"]) for n, t in tags.items()}
    assert said == {
        before: ("0123abc", None, "2.13.0"),
        across: ("4567def", "0123abc 4567def", "2.14.0"),
        after: ("4567def", None, "2.14.0"),
    }
    (parent,) = by_role(client, "sweep")
    assert parent.data.tags["cl.commits"] == "0123abc 4567def"
    assert "commits `0123abc`, `4567def`" in parent.data.tags["mlflow.note.content"]


def test_a_run_has_at_most_40_metrics_and_30_params(tmp_path, uri):
    sweep = FakeSweep(tmp_path / "s", tasks=20)
    settings = {"assign": {"key48": "48", "lr": "0.05"}, **{f"setting{n}": n for n in range(50)}, "nothing": None}
    sweep.sweep(settings=settings, varied=["epochs", "key49"])
    one = item(0, **{f"key{n}": n for n in range(50)})
    sweep.pack("p", [one])
    sweep.start("p")
    everything = {
        "capacity": {**{f"layers.{n}.weight": 0.5 for n in range(60)}, "total": 0.5},
        "use": {"total": 0.1},
        "compressed": {"hidden": 0.1, "with_head": 0.2, "stored": 0.3},
        "fitted": [[[0.0], [1.0], [0.5]]],
    }
    for seen in range(21):
        inferred = [[1 / seen] * seen for _ in range(seen)]
        sweep.task("p", seen, [sweep.member(one["trial"], seen, inferred=inferred, **everything)])
    sweep.done(one["trial"], "p")
    sweep.journal.append("rho", trial=one["trial"], values=[-0.1] * 20, joint="j", random="r")
    sweep.end(asked=1, done=1)
    Publisher(sweep.folder, uri, tmp_path / "artifacts").publish()
    client = MlflowClient(uri)
    for role in ("sweep", "trial"):
        (run,) = by_role(client, role)
        assert 5 < len(run.data.metrics) <= 40
        assert 20 < len(run.data.params) <= 30
        assert {"key48", "lr"} <= run.data.params.keys(), "what was set comes before what was not"
        assert "nothing" not in run.data.params
        assert role == "sweep" or {"epochs", "key49"} <= run.data.params.keys(), "and what varies before all"
    assert {"acc/t20", "capacity/total", "rho/avg", "inference/right_task"} <= set(run.data.metrics)


# -- in a browser -------------------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_browser_opens_the_page(tmp_path):
    """Chromium with no network: everything is drawn, nothing is asked for, and it has nothing to complain about."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    sweep = FakeSweep(tmp_path / "s")
    sweep.sweep()
    finish(sweep, 24)
    write(sweep, name=HOSTILE, method=HOSTILE)
    where = (sweep.folder / "report" / "index.html").as_uri()
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9", f"--user-data-dir={tmp_path}/profile"]
    # The picture of the window and the document as it stands after loading; sizes of images show that they were decoded.
    shot = tmp_path / "page.png"
    command = [chromium, *quiet, "--enable-logging=stderr", "--window-size=1100,1600"]
    drawn = subprocess.run([*command, f"--screenshot={shot}", where], capture_output=True, text=True, timeout=120)
    assert drawn.returncode == 0, drawn.stderr
    assert shot.stat().st_size > 50_000
    assert not [line for line in drawn.stderr.splitlines() if "CONSOLE" in line]
    dumped = subprocess.run([*command, "--dump-dom", where], capture_output=True, text=True, timeout=120)
    seen = Reader(dumped.stdout.partition("<html")[2].join(("<html", "")))
    assert len(seen.tags("img")) == 10
    assert seen.tags("script") == []


def test_what_a_page_weighs(sweep):
    finish(sweep, 24)
    write(sweep)
    assert (sweep.folder / "report" / "index.html").stat().st_size < 2_000_000
    with contextlib.suppress(FileNotFoundError):
        assert os.stat(sweep.folder / "report" / "importance.png").st_size > 1000
    assert page.drawn(sweep.folder / "report") == pictures_all.fingerprint(load(sweep.folder))
