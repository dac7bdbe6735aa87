"""A home with a finished sweep in it, calls of the commands in this process, and damage done on purpose."""

import json
import random

import torch
from fake_sweep import TASKS, FakeSweep, item
from sweep_kit import Result

from clcore.masks import Mask
from trackers import artifacts
from trackers.record import load
from trackers.summary import leaderboard

NAME = "tfm-grid-1234"
MANIFEST = {
    "format": 1,
    "question": {"method": "tfm", "seeds": [0, 1]},
    "settings": {"method": "tfm", "home": "runs"},
    "command": "x",
}


def call(main, words, capsys) -> Result:
    capsys.readouterr()
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return Result(code, said.out, said.err)


def trial_files(folder, name) -> None:
    target = folder / "trials" / name
    draw = torch.Generator().manual_seed(7)
    matrix = torch.rand(TASKS + 1, TASKS, dtype=torch.float64, generator=draw)
    artifacts.write_matrix(target / artifacts.MATRIX, {"test": matrix})
    artifacts.write_masks(target / artifacts.MASKS, {(1, "units1"): Mask("unit", torch.rand(40, generator=draw) < 0.5)})
    (target / "config.json").write_text(json.dumps({"trial": name}))


def begun(home, name=NAME) -> FakeSweep:
    """A sweep with its first event and its manifest."""
    sweep = FakeSweep(home / name, name=name)
    sweep.sweep()
    (sweep.folder / "sweep.json").write_text(json.dumps(MANIFEST, indent=1))
    return sweep


def finished(home, name=NAME):
    """The folder of a sweep of two trials, done, with their files and a report."""
    sweep = begun(home, name)
    items = [item(0), item(1)]
    for one in items:
        trial_files(sweep.folder, one["trial"])
    sweep.whole_pack("p0", items)
    sweep.journal.append("rho", trial=items[0]["trial"], values=[-0.1] * TASKS, joint="j", random="r")
    sweep.journal.append("linked", trial="x1", config="c9", seed=0, sweep="older", method="tfm", hyperparameters={"growth": 0.1})
    artifacts.write_leaderboard(sweep.folder / "report", leaderboard(load(sweep.folder)))
    sweep.end(asked=3, done=2, skipped=1)
    sweep.journal.close()
    return sweep.folder


def byte_edits(data: bytes, count: int, seed: int):
    """The data with a few bytes changed, put in, taken out or cut off, in many ways."""
    draw = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            at, kind = draw.randrange(max(len(changed), 1)), draw.randrange(6) if changed else 2
            if kind == 0:
                changed[at] = draw.randrange(256)
            elif kind == 1:
                changed[at] ^= 1 << draw.randrange(8)
            elif kind == 2:
                changed.insert(at, draw.choice(b'0129.-",:{}[]\n\\/x\x00\xff'))
            elif kind == 3:
                del changed[at : at + draw.choice((1, 1, 2, 30))]
            elif kind == 4:
                changed[at:at] = changed[at : at + draw.choice((1, 8, 60))]
            elif draw.random() < 0.3:
                del changed[max(at, 1) :]
            else:
                changed[at] = draw.choice(b"0123456789")
        yield bytes(changed)


ODD = (
    None,
    True,
    -1,
    3,
    10**30,
    1e300,
    0.5,
    "",
    "x",
    "../../etc",
    "/etc/passwd",
    "a\nb",
    [],
    [1],
    [[1]],
    {},
    {"a": 1},
    {"total": "x"},
)


def value_edits(events: list[dict], count: int, seed: int, odd=ODD):
    """The events with one value, anywhere in them, replaced by an odd one, a key taken out or an event moved."""
    draw = random.Random(seed)
    for _ in range(count):
        changed = json.loads(json.dumps(events))
        if draw.random() < 0.1:
            changed.insert(draw.randrange(len(changed)), changed.pop(draw.randrange(len(changed))))
        else:
            holder, key = draw.choice(list(places(draw.choice(changed))))
            if draw.random() < 0.2:
                del holder[key]
            else:
                holder[key] = draw.choice(odd)
        yield "".join(json.dumps(event) + "\n" for event in changed).encode()


def places(node):
    """Every (container, key) below a node of JSON."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])
