"""An empty ``--tracking-uri`` (a variable of the shell that is not set) is refused, and not taken for the sweep's own store."""

import pytest
from command_kit import NAME, finished

from trackers import card, export, model, publish, sweeps
from trackers.command import run

RUN = "0" * 32
CALLS = [
    (publish.app, [NAME]),
    (sweeps.app, ["delete", NAME, "--yes", "--mlflow"]),
    (card.app, [NAME]),
    (export.app, [RUN, "--to", "to"]),
    (model.app, [RUN]),
]


@pytest.mark.parametrize("given", ["", " "])
@pytest.mark.parametrize(("app", "words"), CALLS, ids=["publish", "delete", "card", "export", "model"])
def test_it_is_refused(app, words, given, tmp_path, capsys):
    folder = finished(tmp_path / "home")
    code = run(app, [*words, "--home", str(folder.parent), "--tracking-uri", given])
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith(f"clsweep: --tracking-uri = {given!r} is not allowed")
    assert {path.name for path in folder.parent.iterdir()} == {NAME}
