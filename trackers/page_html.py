"""HTML written so that nothing a user named can become markup: text is escaped unless it was made here."""

from html import escape


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
