"""A sweep whose checkpoints are in an object store: an S3-compatible server on loopback, and a real Ray."""

import os
import shlex
import signal
import tempfile

import pytest
from sweep_kit import events, only_folder, outcome, record_of, reports, rows_are_unique, same_matrices, start, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

TFM = shlex.split("--method tfm --space tfm.toml --tasks 4 --network mlp:16 --set epochs=20 --set lr=0.2 --pack 1")
SECRET = "not-to-be-written-down"
STORE = ["--storage", "s3://bucket/sweeps"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("store")
    (made / "tfm.toml").write_text("[values]\np1 = [0.3, 0.6]\n")
    return made


@pytest.fixture(scope="module")
def undisturbed(folder):
    assert outcome(start(*TFM, "--executor", "inline", "--home", "undisturbed", cwd=folder)).code == 0
    return only_folder(folder / "undisturbed")


@pytest.fixture(scope="module")
def store():
    """The server with an empty bucket, and the environment with which Ray's processes find it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    server.client = client(address)
    server.client.create_bucket(Bucket="bucket")
    server.environment = {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    yield server
    server.stop()


def client(address):
    import boto3

    return boto3.client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id="somebody", aws_secret_access_key=SECRET
    )


def objects(store):
    """The names of all objects that hold something."""
    found = store.client.list_objects_v2(Bucket="bucket").get("Contents", [])
    return [item["Key"] for item in found if item["Size"]]


@pytest.fixture
def launch(folder, store):
    temporary = tempfile.mkdtemp(prefix="cs-", dir="/tmp")  # short: Ray's sockets are in it
    started = []

    def go(*words, **environment):
        started.append(start(*words, cwd=folder, TMPDIR=temporary, **{**store.environment, **environment}))
        return started[-1]

    yield go
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_the_driver_is_killed_and_goes_on_from_the_store(folder, launch, store, undisturbed):
    home = folder / "killed"
    process = launch(*TFM, *STORE, "--workers", "1", "--home", home)
    wait_for(lambda: reports(home) >= 2, 600, process)
    process.kill()
    process.wait()
    sweep = only_folder(home)
    named = [event["checkpoint"] for event in events(sweep, "task")]
    assert all(name.startswith(f"s3://bucket/sweeps/{sweep.name}/packs/") for name in named)
    last = named[-1].removeprefix("s3://bucket/")
    assert f"{last}/state.json" in objects(store)
    assert not (sweep / "packs").exists(), "no checkpoint is here"
    said = outcome(launch("--resume", sweep.name, "--home", home, "--workers", "1"), timeout=600)
    assert said.code == 0, said.err
    assert any(event["attempt"] == 2 for event in events(sweep, "start")), "nothing was picked up in the middle"
    assert rows_are_unique(sweep)
    assert same_matrices(sweep, undisturbed)
    assert {t.status for t in record_of(home).trials.values()} == {"done"}
    assert all((sweep / "trials" / trial / "checkpoint.safetensors").is_file() for trial in record_of(home).trials)
    assert not [name for name in objects(store) if name.startswith(f"sweeps/{sweep.name}/packs/")], "nothing is left behind"
    for path in home.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_store_that_does_not_answer(folder, launch):
    said = outcome(launch(*TFM, *STORE, "--home", folder / "refused", AWS_ENDPOINT_URL="http://127.0.0.1:9"))
    assert said.code == 2
    assert said.err.startswith("clsweep: --storage s3://bucket/sweeps cannot be used:")
    assert len(said.err.splitlines()) == 1
    assert not (folder / "refused").exists()
