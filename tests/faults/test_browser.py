"""What people browse, in a real browser: MLflow's table, charts, run pages and pictures, and the sweep's own page; no errors."""

import re

import pytest
from browser_kit import Browser, chromium
from mlflow.tracking import MlflowClient
from server_kit import serving
from sweep_kit import only_folder, outcome, start

from trackers.view import table_link

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here: apt-get install chromium"),
]

CELLS = "[values]\nc = [0.1, 0.75]\nsmax = [50, 400]\n"
SWEEP = ["--method", "hat", "--space", "cells.toml", "--seeds", "2", "--tasks", "3", "--network", "mlp:30-20", "--pack", "8"]
SWEEP += ["--set", "epochs=6", "--set", "lr=0.1", "--executor", "inline", "--name", "seen", "--home", "home"]
TRIALS = 8
#: MLflow asks for the name of who is logged in, which a server without log-in does not know; the other is a notice of Chromium's.
MLFLOWS_OWN = ("/mlflow/users/current", "ResizeObserver loop completed")
IMAGES = "[...document.images].filter(i => i.complete && i.naturalWidth > 300 && i.clientWidth > 200)"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the home of a finished sweep; pictures of what is seen go there, too."""
    folder = tmp_path_factory.mktemp("browsed")
    (folder / "cells.toml").write_text(CELLS)
    said = outcome(start(*SWEEP, cwd=folder), timeout=400)
    assert said.code == 0, said.err
    (folder / "said").write_text(said.out)
    return folder


@pytest.fixture(scope="module")
def server(place):
    """What ``mlflow ui --backend-store-uri`` starts, as the sweep says."""
    with serving(place / "server", f"sqlite:///{place}/home/mlflow.db") as made:
        yield made


@pytest.fixture(scope="module")
def window(place):
    made = Browser(place)
    yield made
    made.close()


@pytest.fixture
def browser(window):
    """The window, and at the end nothing wrong on its console."""
    window.errors.clear()
    yield window
    window.call("Page.navigate", url="about:blank")
    assert [error for error in window.errors if not any(own in error for own in MLFLOWS_OWN)] == []


@pytest.fixture(scope="module")
def runs(place):
    """Experiment, the sweep's run, and the runs of its trials."""
    client = MlflowClient(f"sqlite:///{place}/home/mlflow.db")
    experiment = client.get_experiment_by_name("cl/split-digits").experiment_id
    found = client.search_runs([experiment])
    (sweep,) = (run for run in found if run.data.tags["cl.role"] == "sweep")
    return experiment, sweep, [run for run in found if run is not sweep]


def text_has(*words):
    return " && ".join(f"document.body.innerText.includes({word!r})" for word in words)


def test_the_table_of_runs(browser, server, runs, place):
    """All trials, flat, with the figures that matter."""
    experiment, _, trials = runs
    names = [run.info.run_name for run in trials]
    browser.open(table_link(server.uri, experiment), text_has(*names, "acc/avg_validation", "forgetting", "cost/bytes"), 240)
    browser.picture(place / "table.png")
    cells = browser.value("[...document.querySelectorAll('[role=gridcell]')].map(cell => cell.innerText)")
    for run in trials:
        assert any(cell.startswith(f"{run.data.metrics['acc/avg_validation']:.5f}"[:6]) for cell in cells), cells


def test_the_charts_at_the_printed_link(browser, server, place):
    (link,) = re.findall(r"^  then +(\S+)$", (place / "said").read_text(), re.MULTILINE)
    drawn = "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length"
    link = link.replace("http://127.0.0.1:5000", server.uri)
    browser.open(link, f"{text_has('acc/avg', 'acc/t01')} && {drawn} >= {2 * TRIALS}", 240)
    browser.picture(place / "charts.png")


def test_the_sweeps_page(browser, server, runs, place):
    experiment, sweep, _ = runs
    url = f"{server.uri}/#/experiments/{experiment}/runs/{sweep.info.run_id}"
    browser.open(url, text_has("8 asked · 8 done", "About this run"), 240)
    browser.value("[...document.querySelectorAll('button, a, span')].find(e => e.innerText == 'Show more')?.click()")
    browser.wait(text_has("--resume seen"))
    browser.picture(place / "sweep.png")
    assert browser.value("document.querySelectorAll('table td').length") > 8  # Markdown became a table
    assert "**" not in browser.text()
    assert in_sight(browser, "About this run")


def test_a_trials_page(browser, server, runs, place):
    experiment, _, trials = runs
    run = max(trials, key=lambda run: run.data.metrics["acc/avg_validation"])
    url = f"{server.uri}/#/experiments/{experiment}/runs/{run.info.run_id}"
    browser.open(url, text_has("After 3 of 3 tasks", "About this run", "acc/avg"), 240)
    browser.picture(place / "trial.png")
    assert f"--replay {run.info.run_id}" in browser.value("document.body.textContent")
    assert "**" not in browser.text()
    assert in_sight(browser, "About this run")


def in_sight(browser, words):
    """Whether what has these words, and all beside it, is not pushed out of the window."""
    return browser.value(
        f"[...document.querySelectorAll('*')].filter(e => e.children.length == 0 && e.innerText == {words!r})"
        ".some(e => e.getBoundingClientRect().right < innerWidth && e.getBoundingClientRect().left > 0)"
    )


def test_each_picture(browser, server, runs, place):
    """Of the sweep and of its best trial, as MLflow shows it."""
    experiment, sweep, trials = runs
    client = MlflowClient(f"sqlite:///{place}/home/mlflow.db")
    wanted = [(sweep, item.path) for item in client.list_artifacts(sweep.info.run_id) if item.path.endswith(".png")]
    wanted += [(run, item.path) for run in trials for item in client.list_artifacts(run.info.run_id, "pictures")]
    names = {path for _, path in wanted}
    assert {"accuracy.png", "leaderboard.png", "parallel.png", "importance.png", "over_trials.png", "cost.png"} <= names
    assert {"pictures/matrix.png", "pictures/progress.png", "pictures/capacity.png", "pictures/overlap.png"} <= names
    for run, path in wanted:
        shown = f"document.body.innerText.includes('artifacts/{path}') && {IMAGES}.length"
        browser.open("about:blank", "document.readyState == 'complete'", 30)  # else MLflow keeps the last picture
        browser.open(f"{server.uri}/#/experiments/{experiment}/runs/{run.info.run_id}/artifacts/{path}", shown, 240)
        browser.picture(place / f"shown-{path.replace('/', '-')}")


def test_the_page_without_a_server(browser, place):
    page = only_folder(place / "home") / "report" / "index.html"
    count = page.read_text().count("<img")
    assert count >= 9
    browser.open(page.as_uri(), f"document.readyState == 'complete' && {IMAGES}.length == {count}", 120)
    browser.picture(place / "page.png", whole=True)
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    for heading in ("What was asked", "What won", "Leaderboard", "What it cost", "What failed", "How to repeat it"):
        assert heading in browser.text()
