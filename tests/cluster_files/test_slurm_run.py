"""A rendered Slurm script, run: ``srun`` and ``scontrol`` stand in, Ray, its ``symmetric-run`` and the sweep are real.

It runs in process and network namespaces of its own, since ``ray symmetric-run`` ends every Ray process it can see.
"""

import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sweep_kit import ROOT, events, outcome, record_of, rows_are_unique, same_matrices, start

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

APART = ["unshare", "--pid", "--fork", "--mount-proc", "--net", "--kill-child"]
WORDS = shlex.split("--method tfm --tasks 4 --network mlp:16 --set epochs=120 --set lr=0.2 --pack 1 --name mine")
SERVER = "http://127.0.0.1:5000"
#: Runs a command as often as there are tasks, each as a process here, and hands a signal on.
SRUN = r"""#!/bin/bash
tasks=1
while [[ $1 == --* ]]; do
    case $1 in --ntasks=*) tasks=${1#*=} ;; esac
    shift
done
trap 'kill -TERM "${started[@]}"' TERM
for ((task = 0; task < tasks; task++)); do SLURM_PROCID=$task "$@" & started+=($!); done
worst=0
for one in "${started[@]}"; do
    while kill -0 "$one" 2>/dev/null; do wait "$one"; code=$?; done
    ((code > worst)) && worst=$code
done
exit "$worst"
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) echo 127.0.0.1 ;;
    requeue) echo "$2" >>requeued ;;
esac
"""
#: Slurm's part: the job begins, its time is nearly up in the middle of the sweep, and the second time there is enough of it.
JOB = """
ip link set lo up
learned() { cat home/mine/journal.jsonl 2>/dev/null | grep -c '"event":"task"'; }
bash sweep.sh >first.out 2>&1 &
job=$!
until [ "$(learned)" -ge 2 ] || ! kill -0 $job; do sleep 0.1; done
kill -USR1 $job
while kill -0 $job 2>/dev/null; do wait $job; echo $? >first.code; done
SLURM_RESTART_COUNT=1 bash sweep.sh >second.out 2>&1
echo $? >second.code
"""


@pytest.fixture(scope="module")
def folder():
    """Short of name, for Ray's sockets."""
    made = Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="module")
def job(folder):
    """The folder of a job that was put into the queue again once and came to its end."""
    if subprocess.run([*APART, "ip", "link", "set", "lo", "up"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no namespaces, and without them every Ray here would be ended")
    (folder / "tfm.toml").write_text("[values]\np1 = [0.3, 0.6]\n")
    render(folder)
    (folder / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "RAY_TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1",
    }  # fmt: skip
    process = subprocess.Popen([*APART, "bash", "-c", JOB], cwd=folder, env=environment, start_new_session=True)
    try:
        process.wait(timeout=1600)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return folder


def render(folder):
    words = ["slurm", "--cpus-per-worker", "1", "--storage", folder / "home", "--tracking-uri", SERVER]
    words += ["--token-file", folder / "keys" / "token", "--to", folder / "sweep.sh"]
    sweep = [*WORDS, "--space", folder / "tfm.toml"]
    command = [sys.executable, ROOT / "cluster" / "launch.py", "render", *words, "--", *sweep]
    subprocess.run([str(word) for word in command], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    text = (folder / "sweep.sh").read_text()
    assert text.count(f"--tracking-uri {SERVER}") == 2  # in the command and in the comment; here the record is a file
    (folder / "sweep.sh").write_text(text.replace(SERVER, f"sqlite:///{folder}/mlflow.db"))


def test_the_job_is_put_into_the_queue_again_and_goes_on(job):
    outputs = [(job / name).read_text() for name in ("first.out", "second.out")]
    assert (job / "requeued").read_text() == "77\n", outputs[0]
    assert (job / "first.code").read_text().strip() == "0"
    assert (job / "second.code").read_text().strip() == "0", outputs[1]
    assert "into the queue again" in outputs[0]
    sweep = job / "home" / "mine"
    assert [event["reason"] for event in events(sweep, "stop")] == ["interrupted"], "it ended in good order"
    assert any(event["attempt"] == 2 for event in events(sweep, "start")), "nothing was picked up in the middle"
    assert {trial.status for trial in record_of(job / "home").trials.values()} == {"done"}
    assert rows_are_unique(sweep)


def test_the_result_is_that_of_one_machine(job):
    said = outcome(start(*WORDS, "--space", job / "tfm.toml", "--executor", "inline", "--home", "alone", cwd=job))
    assert said.code == 0, said.err
    assert same_matrices(job / "home" / "mine", job / "alone" / "mine")


def test_the_token_is_its_owners_alone(job):
    token = job / "keys" / "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    secret = token.read_text()
    assert len(secret) == 64
    for path in job.rglob("*"):
        if path.is_file() and path != token and "session_" not in str(path):
            assert secret.encode() not in path.read_bytes(), path


def test_nothing_is_left_behind(job):
    assert not list((job / "home").glob(".mine-*"))
