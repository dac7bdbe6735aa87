"""Rendered files: read back with the parsers of their readers, and every command in them checked against its own program."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
import yaml

from cluster.launch import app as launch_app
from cluster.launch import main
from cluster.render_facts import Sweep as Rendered
from sweeps.run import settings_of

MACHINES = shlex.split("--workers 8 --cpus-per-worker 6 --gpus-per-worker 2 --memory-per-worker 24 --image reg.example/clsweep:1")
PLACES = shlex.split("--storage /shared/runs --tracking-uri http://mlflow.example:5000")
WORDS = shlex.split("--method hat --space grid --set lr=0.1 --set epochs=3 --seeds 4,7")
HOSTS = ["--hosts", ",".join(f"10.0.0.{i}" for i in range(1, 10))]
#: Words of RayJobSpec, RayClusterSpec and its groups that the files use (KubeRay 1.6, ray.io/v1), and those they must have.
SPEC = {"entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
CONTAINER = {"name", "image", "resources", "env", "envFrom", "ports", "volumeMounts"}


@pytest.fixture
def launch(monkeypatch, capsys):
    """``launch.py`` in this process: exit code, output, errors."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["launch.py", *map(str, words)])
        capsys.readouterr()
        code = main()
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def rendered(launch):
    """The text of a file."""

    def call(kind, *more, words=WORDS, machines=MACHINES, places=PLACES):
        code, out, err = launch("render", kind, *machines, *places, *more, "--", *words)
        assert code == 0, err
        return out

    return call


def attached(script):
    """The words of ``launch.py attach`` in a shell script, as the shell would hand them on, and the sweep's."""
    lines = script.replace("\\\n", " ").splitlines()
    (line,) = (line for line in lines if "-m cluster.launch" in line)
    words = shlex.split(line.partition("python -m cluster.launch ")[2].partition("||")[0].rstrip("& "))
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]


def check_call(script, home, storage=None, words=WORDS):
    """Our own command line takes the call, and the sweep is the one that was asked for, where it was asked for."""
    own, sweep = attached(script)
    group = typer.main.get_command(launch_app)
    name, rest = own[0], ["3" if word == "$retries" else word for word in own[1:]]
    parsed = group.commands[name].make_context(name, [*rest, "--", *sweep])
    assert (name, parsed.params["retries"]) == ("attach", int(rest[-1]))
    assert sweep[: len(words)] == words
    found, asked = settings_of(sweep), settings_of(words)
    assert found.question() == asked.question()
    assert found.name == asked.sweep_name(), "the name that a call goes on by"
    assert (str(found.home), found.storage, found.tracking_uri) == (home, storage, "http://mlflow.example:5000")
    return found


def documents(text):
    return {found["kind"]: found for found in yaml.safe_load_all(text)}


def test_kuberay(rendered):
    found = documents(rendered("kuberay", "--retries", "5"))
    assert set(found) == {"ConfigMap", "PersistentVolumeClaim", "RayJob"}
    job, script, claim = found["RayJob"], found["ConfigMap"]["data"]["run.sh"], found["PersistentVolumeClaim"]
    assert job["apiVersion"] == "ray.io/v1"
    spec = job["spec"]
    assert set(spec) == SPEC
    assert (spec["submissionMode"], spec["backoffLimit"], spec["shutdownAfterJobFinishes"]) == ("K8sJobMode", 5, True)
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == CLUSTER
    assert cluster["rayVersion"] == __import__("ray").__version__
    assert cluster["authOptions"] == {"mode": "token", "secretName": "clsweep-token"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0", "no trial runs on the head"
    assert head["serviceType"] == "ClusterIP"
    assert set(workers) == GROUP
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"] == 8
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (container,) = group["template"]["spec"]["containers"]
        assert set(container) <= CONTAINER
        assert container["image"] == "reg.example/clsweep:1"
        assert container["envFrom"] == [{"secretRef": {"name": "clsweep-env", "optional": True}}]
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["sweeps"] == {"name": "sweeps", "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}}
        assert {"name": "sweeps", "mountPath": "/shared/runs"} in container["volumeMounts"]
    limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "6", "memory": "24Gi", "nvidia.com/gpu": "2"}
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    run = next(m for m in head["template"]["spec"]["containers"][0]["volumeMounts"] if m["name"] == "run")
    assert spec["entrypoint"] == f"sh {run['mountPath']}/run.sh"
    volumes = head["template"]["spec"]["volumes"]
    assert {"name": "run", "configMap": {"name": found["ConfigMap"]["metadata"]["name"]}} in volumes
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    assert check_call(script, "/shared/runs").gpus_per_trial == 1, "the GPUs that were asked for are used"


@pytest.mark.parametrize(("code", "said"), [(0, 0), (1, 0), (2, 2), (70, 70), (143, 143)])
def test_what_kuberay_is_told(rendered, tmp_path, code, said):
    """A sweep that ended with failed trials is no reason for another cluster; a lost one is."""
    (tmp_path / "python").write_text(f"#!/bin/sh\necho $#\nexit {code}\n")
    (tmp_path / "python").chmod(0o755)
    script = documents(rendered("kuberay"))["ConfigMap"]["data"]["run.sh"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_ADDRESS": "10.0.0.1:6379"}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == said, done.stderr
    assert int(done.stdout) == 2 + 1 + 1 + 2 + 1 + len(WORDS) + 2 + 2 + 2 + 2  # every word arrived as one


def test_kuberay_with_an_object_store(rendered):
    text = rendered("kuberay", places=[*shlex.split("--storage s3://bucket/sweeps --home /home/sweeps"), *PLACES[2:]])
    found = documents(text)
    assert found["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    cluster = found["RayJob"]["spec"]["rayClusterSpec"]
    assert "volumes" not in cluster["workerGroupSpecs"][0]["template"]["spec"]
    check_call(found["ConfigMap"]["data"]["run.sh"], "/home/sweeps", "s3://bucket/sweeps")


def test_slurm(rendered, tmp_path):
    text = rendered("slurm", "--hours", "36.5", "--setup", "source /shared/venv/bin/activate", "--token-file", "~/a b/token")
    (tmp_path / "sweep.sh").write_text(text)
    assert subprocess.run(["bash", "-n", tmp_path / "sweep.sh"], check=False).returncode == 0
    lines = text.splitlines()
    options = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in lines if line.startswith("#SBATCH"))
    code = lines.index("set -u")
    assert all(line.startswith("#") or not line for line in lines[:code]), "Slurm reads no option after the first command"
    assert options.pop("job-name") == settings_of(WORDS).sweep_name()
    assert options.pop("output").endswith("-%j.out")
    assert options == {
        "open-mode": "append", "nodes": "8", "ntasks-per-node": "1", "cpus-per-task": "6", "mem": "24G", "gpus-per-node": "2",
        "exclusive": "", "time": "1-12:30:00", "signal": "B:USR1@180", "requeue": "",
    }  # fmt: skip
    assert lines[code + 1] == "source /shared/venv/bin/activate"
    assert "RAY_AUTH_TOKEN_PATH=\"$HOME\"/'a b/token'" in text
    assert "--container-image=reg.example/clsweep:1 --container-mounts=/shared/runs:/shared/runs" in text
    check_call(text, "/shared/runs")


def test_what_the_slurm_script_asks_of_ray(rendered):
    """The options of ``ray symmetric-run`` are its own, and the rest ``ray start`` takes on heads and on workers."""
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    text = rendered("slurm").replace("\\\n", " ")
    call = next(line for line in text.splitlines() if "ray symmetric-run" in line)
    given = re.findall(r"(--[a-z-]+)", call.partition("symmetric-run")[2].partition(" -- ")[0])
    own = {name for option in symmetric_run.params for name in option.opts}
    others = {name for option in start.params for name in option.opts}
    assert {"--address", "--min-nodes"} <= set(given) & own
    assert set(given) - own <= others - {"--head", "--port", "--block", "--include-dashboard", "--node-ip-address"}


def test_ray_up(rendered):
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.scripts.scripts import start

    text = rendered("ray-up", *HOSTS, "--ssh-user", "ann", "--token-file", "~/here/token")
    found = yaml.safe_load(text)
    ready = prepare_config(found)
    validate_config(ready)  # Ray's own schema
    assert found["provider"] == {"type": "local", "head_ip": "10.0.0.1", "worker_ips": [f"10.0.0.{i}" for i in range(2, 10)]}
    assert ready["max_workers"] == 8
    assert found["auth"] == {"ssh_user": "ann"}
    assert found["docker"]["image"] == "reg.example/clsweep:1"
    assert "--volume=/shared/runs:/shared/runs" in found["docker"]["run_options"]
    assert found["file_mounts"] == {"~/.clsweep/ray_token": "~/here/token"}
    assert "--env-file=$HOME/.clsweep.env" in found["docker"]["run_options"]
    head, worker = found["head_start_ray_commands"][-1], found["worker_start_ray_commands"][-1]
    known = {name for option in start.params for name in option.opts}
    for command in (head, worker):
        assert set(re.findall(r"(--[a-z-]+)", command)) <= known
        assert "RAY_AUTH_MODE=token" in command
    assert "--num-cpus=0" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-cpus=6 --num-gpus=2" in worker
    (write,) = found["head_setup_commands"]
    for shell in (write, head, worker, *found["setup_commands"], *found["initialization_commands"]):
        assert subprocess.run(["bash", "-n"], input=shell, text=True, check=False).returncode == 0
    check_call(write, "/shared/runs")


def test_the_logins_of_ray_up_are_in_a_file_of_the_machines(rendered, tmp_path):
    """It is made where it is missing, since docker wants it, for its user alone; and docker is told where it is on that machine."""
    from ray.autoscaler._private.docker import docker_start_cmds

    found = yaml.safe_load(rendered("ray-up", *HOSTS))
    (make,) = found["initialization_commands"]
    environment = {**os.environ, "HOME": str(tmp_path)}
    file = tmp_path / ".clsweep.env"
    subprocess.run(["bash", "-c", make], env=environment, check=True)
    assert (file.stat().st_mode & 0o777, file.read_text()) == (0o600, "")
    file.write_text("MLFLOW_TRACKING_PASSWORD=hunter2\n")
    subprocess.run(["bash", "-c", make], env=environment, check=True)
    assert file.read_text() == "MLFLOW_TRACKING_PASSWORD=hunter2\n"
    docker = found["docker"]
    started = docker_start_cmds(
        "ann", docker["image"], {}, docker["container_name"], docker["run_options"], "c", "/home/ann", "echo"
    )
    said = subprocess.run(["bash", "-c", started], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"--env-file={file}" in said.split()


def test_what_the_words_name_is_in_the_containers(rendered):
    words = [*WORDS, "--data-dir", "/data/mnist"]
    text = rendered("slurm", words=words)
    assert "--container-mounts=/shared/runs:/shared/runs,/data/mnist:/data/mnist --container-mount-home" in text
    options = yaml.safe_load(rendered("ray-up", *HOSTS, words=words))["docker"]["run_options"]
    assert "--volume=/data/mnist:/data/mnist" in options
    below = [*WORDS, "--data-dir", "/shared/runs/data"]
    assert "/shared/runs/data:" not in rendered("slurm", words=below)
    rendered("kuberay", words=below)


@pytest.mark.parametrize("joined", [False, True])
def test_what_is_typed_arrives_as_it_was(rendered, joined):
    """Quotes, dollars and colons of a word stay its own, in YAML and in the shell."""
    option = ["--data-dir", "/shared/it's: here/it's $HOME: `x` #'1'"]
    words = [*WORDS, *(["=".join(option)] if joined else option)]
    places = ["--storage", "/shared/it's: here", *PLACES[2:]]
    for kind in ("kuberay", "ray-up", "slurm"):
        text = rendered(kind, *(HOSTS if kind == "ray-up" else []), words=words, places=places)
        if kind == "kuberay":
            text = documents(text)["ConfigMap"]["data"]["run.sh"]
        elif kind == "ray-up":
            (text,) = yaml.safe_load(text)["head_setup_commands"]
        check_call(text, "/shared/it's: here", words=words)


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("hat-grid-1", "hat-grid-1"),
        ("7", "s-7-"),
        ("Big_One.x", "s-big-one-x-"),
        ("x" * 60, "s-xxx"),
        ("true", "true"),
        ("___", "s--"),
    ],
)
def test_names_that_kubernetes_takes(name, job):
    made = Rendered(name, (), "/h", None).job
    assert made.startswith(job)
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", made)


def test_long_names_stay_apart():
    assert len({Rendered("a" * 50 + end, (), "/h", None).job for end in "xyz"}) == 3


def test_a_name_that_yaml_would_take_for_something_else(rendered):
    found = documents(rendered("kuberay", words=[*WORDS, "--name", "true"]))
    assert found["RayJob"]["metadata"]["name"] == "true"
    assert yaml.safe_load(rendered("ray-up", *HOSTS, words=[*WORDS, "--name", "1e3"]))["cluster_name"] == "1e3"


def test_to_a_file(launch, tmp_path):
    where = tmp_path / "sweep.yaml"
    code, out, _ = launch("render", "kuberay", *MACHINES, *PLACES, "--to", where, "--", *WORDS)
    assert code == 0
    assert str(where) in out
    assert f"kubectl apply -f {where}" in where.read_text()


REFUSED = {
    "no image": (["kuberay", *PLACES], WORDS, "--image is missing"),
    "no image for ray up": (["ray-up", *PLACES, "--hosts", "a,b"], WORDS, "--image is missing"),
    "no such kind": (["kubray", *MACHINES, *PLACES], WORDS, "Did you mean 'kuberay'?"),
    "no storage": (["slurm", *PLACES[2:]], WORDS, "--storage is missing"),
    "no server": (["slurm", *PLACES[:2]], WORDS, "--tracking-uri is missing"),
    "a database on a shared disk": (["slurm", *PLACES[:2], "--tracking-uri", "sqlite:////x.db"], WORDS, "launch.py tracking"),
    "a relative path": (["slurm", "--storage", "runs", *PLACES[2:]], WORDS, "--storage = 'runs'"),
    "a store without a home": (["slurm", "--storage", "s3://b/x", *PLACES[2:]], WORDS, "the journal needs --home"),
    "too few hosts": (["ray-up", *MACHINES, *PLACES, "--hosts", "a,b"], WORDS, "the head and 8 workers"),
    "no sweep": (["slurm", *PLACES], [], "it stands behind --"),
    "an unknown method": (["slurm", *PLACES], ["--method", "hut"], "Did you mean 'hat'?"),
    "an unknown space": (["slurm", *PLACES], ["--method", "hat", "--space", "gird"], "Did you mean 'grid'?"),
    "an unknown setting": (["slurm", *PLACES], ["--method", "hat", "--set", "epoch=3"], "Did you mean 'epochs'?"),
    "an unknown benchmark": (["slurm", *PLACES], ["--method", "hat", "--benchmark", "split-digit"], "Did you mean 'split-digits'?"),
    "an unknown option": (["slurm", *PLACES], ["--method", "hat", "--spce", "grid"], "--spce"),
    "its own home": (["slurm", *PLACES], [*WORDS, "--home", "/x"], "by --storage of render"),
    "a cluster of its own": (["slurm", *PLACES], [*WORDS, "--address", "h:1"], "--address does not go"),
    "going on by hand": (["slurm", *PLACES], ["--resume", "x"], "--resume does not go with render"),
    "a file of this machine": (["slurm", *PLACES], ["--method", "hat", "--space", "s.toml"], "absolute path"),
    "data of this machine": (["slurm", *PLACES], [*WORDS, "--data-dir", "data"], "absolute path"),
    "more cores than there are": (["slurm", *PLACES], [*WORDS, "--cpus", "9"], "1 with 4 CPUs"),
    "GPUs that are not asked for": (["slurm", *PLACES], [*WORDS, "--gpus-per-trial", "1"], "0 GPUs"),
    "data that no pod has": (["kuberay", *MACHINES, *PLACES], [*WORDS, "--data-dir", "/data"], "/data is not in the pods"),
    "a line that leaves its place": (["slurm", *PLACES], [*WORDS, "--data-dir", "/x\n- evil"], "one line of text"),
    "another line": (["kuberay", *MACHINES[:-1], "i\nx", *PLACES], WORDS, "one line of text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(launch, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text("[values]\nsmax = [100]\n")
    options, words, said = REFUSED[case]
    code, out, err = launch("render", *options, "--", *words)
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


@pytest.mark.parametrize(
    "options",
    [
        ["--storage", "/shared", "--tracking-uri", "http://ann:hunter2@mlflow:5000"],
        ["--storage", "s3://AKIA:hunter2@bucket/x", "--home", "/h", *PLACES[2:]],
        ["--storage", "s3://bucket/x?secret=hunter2", "--home", "/h", *PLACES[2:]],
    ],
)
def test_secrets_are_refused_and_not_shown(launch, options):
    code, out, err = launch("render", "slurm", *options, "--", *WORDS)
    assert code == 2
    assert "hunter2" not in out + err
    assert "environment" in err


@pytest.mark.parametrize("kind", ["kuberay", "slurm", "ray-up"])
def test_a_token_in_the_environment_does_not_get_into_files(rendered, kind, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"):
        monkeypatch.setenv(name, "hunter2")
    assert "hunter2" not in rendered(kind, *(HOSTS if kind == "ray-up" else []))
