"""HTML written so that nothing a user named can become markup: text is escaped unless it was made here."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead { font-size: 1.1rem; } .quiet, figcaption { color: #555; font-size: 0.9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:first-child { white-space: nowrap; }
pre { background: #f5f5f5; padding: 0.7rem; overflow-x: auto; font-size: 0.85rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1rem 2rem; }
figure { margin: 0.6rem 0; } figure.broad { grid-column: 1 / -1; } img { max-width: 100%; height: auto; }
summary { cursor: pointer; }
"""
#: Nothing is run and nothing is fetched, whatever a name in the record may look like.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def element(tag: str, /, *content: object, **attributes: object) -> Html:
    """An element with its content.

    Args:
        tag: its name, e.g. ``"td"``.
        *content: ``Html`` is taken as it is, everything else is escaped; None is left out.
        **attributes: values are escaped; a name may end with ``_`` where Python reserves it (``class_``).
    """
    said = "".join(f' {key.rstrip("_")}="{escape(str(value), quote=True)}"' for key, value in attributes.items())
    return Html(f"<{tag}{said}>{join(*content)}</{tag}>")


def void(tag: str, /, **attributes: object) -> Html:
    """An element that holds nothing, such as ``img``."""
    said = "".join(f' {key.rstrip("_")}="{escape(str(value), quote=True)}"' for key, value in attributes.items())
    return Html(f"<{tag}{said}>")


def join(*content: object) -> Html:
    """Pieces one after another, escaped unless they are ``Html``; None is left out."""
    return Html("".join(part if isinstance(part, Html) else escape(str(part)) for part in content if part is not None))


def table(head: list[str], rows: list[list[object]], numbers: int | None = None) -> Html:
    """A table.

    Args:
        head: names of the columns; empty for none.
        rows: its cells.
        numbers: from which column on cells are numbers, set to the right; None for none.
    """
    top = element("thead", element("tr", *(element("th", name, class_=_side(i, numbers)) for i, name in enumerate(head))))
    lines = (element("tr", *(element("td", cell, class_=_side(i, numbers)) for i, cell in enumerate(row))) for row in rows)
    return element("div", element("table", top if head else None, element("tbody", *lines)), class_="wide")


def _side(column: int, numbers: int | None) -> str:
    return "word" if numbers is None or column < numbers else "number"


def section(title: str, *content: object) -> Html:
    """A part of a page under a heading."""
    return element("section", element("h2", title), *content)


def pictures(found: Sequence[tuple[Path, str, bool]]) -> Html:
    """Pictures side by side where there is room.

    Args:
        found: PNG file, what it shows, and whether it takes the whole width.
    """
    return element("div", *(_figure(*picture) for picture in found), class_="pictures")


def document(title: str, body: Sequence[object], marks: Mapping[str, str]) -> Html:
    """A page in one file that runs nothing and fetches nothing.

    Args:
        title: of the window.
        body: its parts; None is left out.
        marks: names and contents of ``meta`` elements of our own.
    """
    head = element(
        "head",
        void("meta", charset="utf-8"),
        void("meta", **{"http-equiv": "Content-Security-Policy", "content": _POLICY}),
        *(void("meta", name=name, content=content) for name, content in marks.items()),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(_STYLE)),
    )
    return join(Html("<!DOCTYPE html>\n"), element("html", head, element("body", *body), lang="en"), "\n")


def _figure(path: Path, words: str, broad: bool) -> Html:
    data = base64.b64encode(path.read_bytes()).decode()
    picture = void("img", src=f"data:image/png;base64,{data}", alt=words)
    return element("figure", picture, element("figcaption", words), class_="broad" if broad else "narrow")
