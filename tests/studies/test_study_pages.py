"""The reports of all kinds of studies in a real browser: no error on its console, every picture there."""

import base64
import shlex
import shutil

import pytest
from browser_kit import Browser, chromium
from studies_kit import SMALL

from sweeps import study

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium here: apt-get install chromium"),
]

#: Pictures of each study's page.
ASKED = {
    "robustness --method hat --seeds 2 --cells 2x2": {
        "map_accuracy", "map_forgetting", "map_rho", "effects_accuracy", "effects_forgetting", "effects_rho", "variance",
        "corruptions", "corruptions_by_task",
    },
    "robustness --method rmn --space random --trials 2 --seeds 1": {
        "spread", "slices", "parallel", "corruptions", "corruptions_by_task",
    },
    "compression --methods hat,ewc,finetune --seeds 2 --cells 2": {"sizes", "each_task", "overhead", "isolated"},
    "compare --methods hat,finetune,joint --seeds 2 --corruptions": {"curves", "ends", "corruptions", "corruptions_by_task"},
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory, migrated):
    """One home for all of them: equal trials are run once."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copy(migrated, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("window"), width=1000)
    yield made
    made.close()


@pytest.mark.parametrize("asked", ASKED)
def test_the_page_opens_with_every_picture(asked, home, window, capsys):
    known = {path.name for path in (home / "studies").glob("*")}
    assert study.main([*shlex.split(asked), *shlex.split(SMALL), "--home", str(home)]) == 0, capsys.readouterr()
    (folder,) = (path.parent for path in (home / "studies").glob("*/index.html") if path.parent.name not in known)
    files = {path.stem: path.read_bytes() for path in folder.glob("*.png")}
    assert set(files) == ASKED[asked] == {path.stem for path in folder.glob("*.svg")}
    window.errors.clear()
    window.open((folder / "index.html").as_uri(), "document.readyState == 'complete' && document.images.length")
    window.wait("[...document.images].every(i => i.complete && i.naturalWidth > 300)")
    assert window.errors == []
    sources = window.value("[...document.images].map(i => i.src)")
    assert len(sources) == len(files)
    assert {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources} == set(files.values())
    assert window.value("document.documentElement.scrollWidth <= innerWidth")
    window.picture(folder / "seen.png", whole=True)
