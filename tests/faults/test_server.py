"""The MLflow server is down, goes away, refuses, or loses its answers: the training never waits, the record is whole in the end."""

import itertools
import shlex

import pytest
from server_kit import INLINE, SWEEP, TRIALS, check, end_of, free_port, interrupted, publish, until
from sweep_kit import listing, only_folder, reports

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


def test_it_is_down_at_the_start(launch, tmp_path):
    before = listing(tmp_path)
    for words in (SWEEP, INLINE):
        uri = f"http://127.0.0.1:{free_port()}"
        said = end_of(launch(*words, "--home", "home", "--tracking-uri", uri))
        assert said.is_refusal, said
        assert f"no MLflow server answers at {uri}" in said.err
        assert listing(tmp_path) == before


def test_it_answers_500_at_the_start(launch, tmp_path, proxy):
    before = listing(tmp_path)
    proxy.breaks = lambda method, path: 500
    said = end_of(launch(*SWEEP, "--home", "home", "--tracking-uri", proxy.uri))
    assert said.is_refusal, said
    assert "answers /health with 500: look at the server's log" in said.err
    assert listing(tmp_path) == before


def test_it_does_not_let_us_in_at_the_start(launch, tmp_path, steady):
    """MLflow's own refusal of a host name that it was not told of."""
    before = listing(tmp_path)
    said = end_of(launch(*SWEEP, "--home", "home", "--tracking-uri", f"http://localhost:{steady.port}"))
    assert said.is_refusal, said
    assert f"with 403: start it with --allowed-hosts localhost:{steady.port}" in said.err
    assert listing(tmp_path) == before


@pytest.mark.parametrize("executor", ["inline", "ray"])
def test_it_goes_away_and_comes_back(launch, tmp_path, server, executor):
    sweep = interrupted(launch, tmp_path / "home", server.uri, server.kill, server.start, "--executor", executor)
    assert "MLflow cannot be written" in (sweep / "log.txt").read_text()
    check(sweep, server.store, server.uri)


def test_it_stays_away(launch, tmp_path, server):
    home = tmp_path / "home"
    process = launch(*INLINE, "--name", "away", "--home", home, "--tracking-uri", server.uri)
    until(lambda: reports(home) >= 3, process=process)
    server.kill()
    said = end_of(process)
    assert said.code == 0, said.err  # the trials are done, and recorded
    assert said.ledger["done"] == TRIALS
    assert f"{TRIALS + 1} run(s) of this sweep are not up to date in MLflow at {server.uri}" in said.out
    command = next(line for line in said.out.splitlines() if "trackers/publish.py" in line)
    assert "Traceback" not in said.out + said.err
    words = shlex.split(command)[2:]
    assert publish(*words).is_refusal
    server.start()
    for _ in range(2):
        said = publish(*words)
        assert said.code == 0, said.err
        check(only_folder(home), server.store, server.uri)


def test_it_answers_500_for_a_while(launch, tmp_path, steady, proxy):
    home = tmp_path / "home"
    process = launch(*INLINE, "--name", "five", "--home", home, "--tracking-uri", proxy.uri)
    until(lambda: reports(home) >= 3, process=process)
    proxy.breaks = lambda method, path: 500
    until(lambda: reports(home) > 10 and proxy.refused, process=process)
    proxy.breaks = lambda method, path: None
    said = end_of(process)
    assert said.code == 0, said.err
    check(home / "five", steady.store, steady.uri)


def test_it_refuses_from_the_middle_on(launch, tmp_path, steady, proxy):
    home = tmp_path / "home"
    process = launch(*INLINE, "--name", "refused", "--home", home, "--tracking-uri", proxy.uri)
    until(lambda: reports(home) >= 3, process=process)
    proxy.breaks = lambda method, path: 403
    said = end_of(process)
    assert said.code == 0, said.err
    assert "not up to date in MLflow" in said.out
    assert "--allowed-hosts" in said.out
    assert "Traceback" not in said.out + said.err
    proxy.breaks = lambda method, path: None
    assert publish(home / "refused").code == 0
    check(home / "refused", steady.store, steady.uri)


def test_answers_are_lost(launch, tmp_path, steady, proxy):
    """What was asked is done and nobody hears of it: every third request that writes."""
    counts = {part: itertools.count(1) for part in ("runs/create", "runs/log-batch", "runs/update", "runs/log-inputs", "artifacts")}

    def breaks(method, path):
        part = next((part for part in counts if part in path), None)
        return "lose" if part and method != "GET" and next(counts[part]) % 3 == 0 else None

    home = tmp_path / "home"
    proxy.breaks = breaks
    said = end_of(launch(*INLINE, "--name", "lost", "--home", home, "--tracking-uri", proxy.uri))
    assert said.code == 0, said.err
    proxy.breaks = lambda method, path: None
    assert publish(home / "lost").code == 0
    check(home / "lost", steady.store, steady.uri)
