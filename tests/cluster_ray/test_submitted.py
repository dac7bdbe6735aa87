"""Sweeps as Ray jobs, against a stand-in for the job server that is spoken to through Ray's own client."""

import shlex
import tempfile
import zipfile
from pathlib import Path

import pytest
import ray
from job_server import FakeJobs, serve

from cluster import submit
from cluster.jobs import QUESTION

SWEEP = shlex.split("--method hat --space grid --tasks 2 --home /shared/runs")
NAMED = [*SWEEP, "--name", "mine"]


@pytest.fixture
def jobs():
    return FakeJobs(ray.__version__)


@pytest.fixture
def url(jobs, monkeypatch):
    monkeypatch.setattr(submit, "PAUSE", 0.0)
    found, end = serve(jobs)
    yield found
    end()


def test_a_sweep_is_submitted_and_followed(launch, jobs, url):
    jobs.endings = [0]
    said = launch("submit", url, "--python", "/opt/py", "--", *SWEEP)
    assert said.code == 0, said.err
    assert "driver 1 says a line" in said.out
    (asked,) = jobs.submitted
    name = asked["submission_id"]
    assert name.startswith("hat-grid-")
    python, dash, module, command, *words = shlex.split(asked["entrypoint"])
    assert [python, dash, module] == ["/opt/py", "-m", "cluster.driven"]
    assert command == f"python cluster/launch.py submit {url} --python /opt/py -- {shlex.join(SWEEP)}"
    assert words == [*SWEEP, "--name", name, "--address", "auto"]
    assert asked["runtime_env"] == {}
    assert jobs.tokens == {None}


def test_the_same_call_follows_the_one_that_runs(launch, jobs, url):
    jobs.endings = [None]
    assert launch("submit", url, "--", *NAMED).code == 130
    jobs.jobs["mine"] |= {"status": "RUNNING", "to_be": 0}
    said = launch("submit", url, "--", *NAMED)
    assert said.code == 0
    assert "runs already" in said.out
    assert len(jobs.submitted) == 1


def test_what_was_stopped_goes_on_when_it_is_submitted_again(launch, jobs, url):
    jobs.endings = [None, 0]
    said = launch("submit", url, "--", *NAMED)
    assert said.code == 130
    assert "was stopped" in said.out
    assert launch("submit", url, "--", *NAMED).code == 0
    assert [asked["submission_id"] for asked in jobs.submitted] == ["mine", "mine"]


def test_only_what_is_new_is_shown_and_its_end_is_not_waited_for(launch, jobs, url):
    """Ray lets a job of the same id write on in the same log, and its tail ends seconds after the job."""
    jobs.endings, jobs.slow = [3, 0], 600.0
    for number in (1, 2):
        said = launch("submit", url, "--", *NAMED)
        assert said.out.splitlines()[1:] == [f"driver {number} says a line", "its last line"]


def test_a_lost_driver_is_submitted_again(launch, jobs, url):
    jobs.endings = [137, 70, 1]
    assert launch("submit", url, "--", *NAMED).code == 1
    assert len(jobs.submitted) == 3
    jobs.endings = [137] * 9
    assert launch("submit", url, "--retries", "1", "--", *NAMED).code == 70
    assert len(jobs.submitted) == 5


def test_a_name_that_asks_another_question_is_refused(launch, jobs, url):
    jobs.endings = [None]
    launch("submit", url, "--", *NAMED)
    said = launch("submit", url, "--", *NAMED, "--set", "epochs=3")
    assert said.code == 2
    assert "asks another question" in said.err
    assert "--name" in said.err
    jobs.jobs["mine"]["metadata"] = {}
    assert "is no sweep" in launch("submit", url, "--", *NAMED).err
    assert len(jobs.submitted) == 1


def test_the_question_decides_and_not_how_it_is_run(launch, jobs, url):
    jobs.endings = [None, None]
    launch("submit", url, "--", *NAMED)
    launch("submit", url, "--", *NAMED, "--workers", "3")
    assert [asked["metadata"][QUESTION] for asked in jobs.submitted] == [jobs.jobs["mine"]["metadata"][QUESTION]] * 2


def test_status_logs_and_stop(launch, jobs, url):
    jobs.endings = [0]
    launch("submit", url, "--", *NAMED)
    said = launch("submit", url, "--status", "mine")
    assert (said.code, said.out) == (0, "mine: succeeded\n")
    assert launch("submit", url, "--logs", "mine").out == "driver 1 says a line\n"
    assert launch("submit", url, "--stop", "mine").code == 0
    assert jobs.jobs["mine"]["status"] == "STOPPED"
    said = launch("submit", url, "--status", "mime")
    assert said.code == 2
    assert "Did you mean 'mine'" in said.err


def test_the_token_is_sent_and_shown_nowhere(launch, jobs, url, tmp_path):
    jobs.token, jobs.endings = "s3cret", [0]
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "wrong").write_text("other\n")
    said = launch("submit", url, "--token-file", "token", "--", *NAMED)
    assert said.code == 0, said.err
    assert "s3cret" not in said.out + said.err + str(jobs.submitted)
    for words, message in ((["--token-file", "wrong"], "does not take the token"), ([], "wants a token")):
        said = launch("submit", url, *words, "--", *NAMED)
        assert said.code == 2
        assert message in said.err
        assert said.err.count("\n") == 1


def test_another_ray_is_refused(launch, jobs, url):
    jobs.version = "2.41.0"
    said = launch("submit", url, "--", *NAMED)
    assert said.code == 2
    assert "runs Ray 2.41.0" in said.err
    assert ray.__version__ in said.err


def test_a_tree_is_sent_with_what_it_needs_and_no_more(launch, jobs, url, tmp_path):
    for name in ("mine.py", "runs/mlflow.db", "results.parquet", ".git/config", "sub/helper.py", "kept/j.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("from clcore.methods.tfm import TFM as METHOD\n")
    words = ["--method", "mine.py", "--space", "default", "--home", tmp_path / "kept"]
    said = launch("submit", url, "--", *words)
    assert said.code == 2
    assert "mine.py is a file of this machine: add --ship" in said.err
    environment = submit.runtime_env(tmp_path, tmp_path / "kept")
    assert environment["working_dir"] == str(tmp_path)
    assert {path.rpartition("/")[2] for path in environment["py_modules"]} == {"clcore", "trackers", "sweeps", "cluster"}
    assert _zipped(environment) == {"mine.py", "sub/helper.py"}


def _zipped(environment):
    """What Ray itself would send of a working directory."""
    from ray._private.runtime_env.packaging import create_package

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "sent.zip"
        create_package(
            environment["working_dir"], made, include_parent_dir=False, include_gitignore=True, excludes=environment["excludes"]
        )
        return set(zipfile.ZipFile(made).namelist())
