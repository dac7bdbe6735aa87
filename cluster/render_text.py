"""Templates of files for other programs, filled with text that is quoted for where it stands."""

import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from clcore.errors import BadValue

#: Columns after which a long command goes on in the next line.
WIDTH = 110


class _Template(Template):
    """``@@{name}``: shell scripts are full of ``$``."""

    delimiter = "@@"


def filled(template: str, values: Mapping[str, Any]) -> str:
    """A template of the package with its places filled.

    Args:
        template: name of a file in ``cluster/templates``.
        values: text for every place in it, quoted already.
    """
    text = (files("cluster") / "templates" / template).read_text(encoding="utf-8")
    return _Template(text).substitute(values)


def plain(option: str, value: str) -> str:
    """The value, where it is one line of text that can be shown.

    Raises:
        BadValue: it holds line ends or other control characters, with which it could leave its place in a file.
    """
    if not value or not value.isprintable():
        raise BadValue(option, value, "one line of text")
    return value


def in_yaml(value: str | Sequence[str]) -> str:
    """Text, or a list of it, as YAML in one line; JSON is."""
    return json.dumps(value if isinstance(value, str) else list(value), ensure_ascii=False)


def in_shell(words: Sequence[str], indent: int) -> str:
    """A command's words for a shell script, options in lines of their own where it is long.

    Args:
        words: as they are to arrive.
        indent: spaces before each line after the first.
    """
    options: list[str] = []
    for word in words:
        if word.startswith("--") or not options:
            options.append(shlex.quote(word))
        else:
            options[-1] += f" {shlex.quote(word)}"
    lines = [""]
    for option in options:
        if lines[-1] and len(lines[-1]) + len(option) > WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {option}".strip()
    return f" \\\n{' ' * indent}".join(lines)


def from_home(path: str) -> str:
    """A path for a shell script, ``~`` kept as the home of who runs it."""
    rest = path.removeprefix("~/")
    return shlex.quote(path) if rest == path else f'"$HOME"/{shlex.quote(rest)}'
