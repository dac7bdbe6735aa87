"""A study's report: one HTML file with the pictures inside, and each picture and table as files of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.studies.plan import Study
from sweeps.studies.tables import Table
from trackers.artifacts import write_text
from trackers.page import PAGE
from trackers.page_html import document, element, pictures, section

MARKDOWN = "report.md"


@dataclass(frozen=True)
class Picture:
    """A picture: name of its files, what it shows, how it is drawn to a path, and whether it takes the page's whole width."""

    name: str
    caption: str
    draw: Callable[[Path], None]
    broad: bool = False


Block = str | Table | list[Picture] | tuple[str, str]


@dataclass(frozen=True)
class Section:
    """A heading and what is under it: paragraphs, tables, pictures, and (title, text) for what is shown as it is."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """What a study found.

    Attributes:
        study: the question.
        lead: the answer in a sentence or two.
        sections: in order.
        metrics: the numbers that its run in MLflow gets.
    """

    study: Study
    lead: str
    sections: Sequence[Section]
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def blocks(self) -> list[Block]:
        """All blocks, in order."""
        return [block for part in self.sections for block in part.blocks]

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return [block for block in self.blocks if isinstance(block, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures."""
        return [picture for block in self.blocks if isinstance(block, list) for picture in block]


def write(report: Report) -> Path:
    """Writes the report into the study's folder; what an earlier one left there and this one has not is removed.

    Returns:
        The HTML file.

    Raises:
        OSError: the disk is full or gone.
    """
    folder = report.study.folder
    folder.mkdir(parents=True, exist_ok=True)
    names = {PAGE, MARKDOWN}
    for picture in report.pictures:
        for suffix in ("png", "svg"):
            picture.draw(folder / f"{picture.name}.{suffix}")
            names.add(f"{picture.name}.{suffix}")
    for table in report.tables:
        for suffix, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            write_text(folder / f"{table.name}.{suffix}", text + ("" if text.endswith("\n") else "\n"))
            names.add(f"{table.name}.{suffix}")
    for old in folder.iterdir():
        if old.is_file() and old.name not in names:
            old.unlink()
    write_text(folder / MARKDOWN, markdown(report))
    write_text(folder / PAGE, _page(folder, report))
    return folder / PAGE


def markdown(report: Report) -> str:
    """The report in Markdown, its pictures as files beside it."""
    lines = [f"# {report.study.title}", "", report.lead, ""]
    for part in report.sections:
        lines += [f"## {part.title}", ""]
        for block in part.blocks:
            lines += [_as_markdown(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def _as_markdown(block: Block) -> str:
    if isinstance(block, Table):
        return block.markdown() if block.shown else block.mention
    if isinstance(block, str):
        return block
    if isinstance(block, tuple):
        return f"{block[0]}:\n\n```\n{block[1]}\n```"
    return "\n\n".join(f"![{picture.name}]({picture.name}.png)\n\n{picture.caption}" for picture in block)


def _page(folder: Path, report: Report) -> str:
    parts: list[object] = [element("h1", report.study.title), element("p", report.lead, class_="lead")]
    parts += [section(part.title, *(_as_html(folder, block) for block in part.blocks)) for part in report.sections]
    return document(f"{report.study.name}: {report.study.title}", parts, {"clsweep-study": report.study.name})


def _as_html(folder: Path, block: Block) -> object:
    if isinstance(block, Table):
        return block.html() if block.shown else element("p", block.mention)
    if isinstance(block, str):
        return element("p", block)
    if isinstance(block, tuple):
        return element("div", element("p", f"{block[0]}:"), element("pre", block[1]))
    return pictures([(folder / f"{picture.name}.png", picture.caption, picture.broad) for picture in block])
