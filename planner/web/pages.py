"""Pages of HTML that hold their figures and the library that draws them.

`write_page` shows on a page what a command prints: its lines, headings and tables, and charts
beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.files import atomic_write
from planner.web.charts import on_page

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.table import Table


@dataclass(frozen=True)
class Tabulated:
    """A table's headings and cells; the first cell of a row is its heading.

    Attributes:
        right: places of the columns of numbers.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        spec: Vega-Lite.
        caption: what it shows, in a sentence.
        table: the same as a table, for those who cannot see or point at it.
    """

    name: str
    spec: dict[str, Any]
    caption: str
    table: Tabulated | None = None


@dataclass
class Section:
    """A heading, and the lines and tables below it."""

    title: str = ""
    parts: list[str | Tabulated] = field(default_factory=list)


class Recorder:
    """Takes what is printed to a console, as sections."""

    def __init__(self) -> None:
        self.sections = [Section()]

    def print(self, *items: Any, **_options: Any) -> None:
        """Record lines and tables; a bold line that begins anew is a heading."""
        from rich.console import Group
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        for item in items:
            if isinstance(item, Group):
                self.print(*item.renderables)
            elif isinstance(item, Padding):
                self.print(item.renderable)
            elif isinstance(item, Table):
                self.sections[-1].parts.append(_tabulated(item))
            else:
                text = item.plain if isinstance(item, Text) else str(item)
                bold = isinstance(item, Text) and "bold" in str(item.style)
                if bold and text.startswith("\n"):
                    self.sections.append(Section(text.strip()))
                elif text.strip():
                    self.sections[-1].parts.append(text.strip())

    def headline(self) -> str:
        """The first line, taken out."""
        first = self.sections[0].parts
        if first and isinstance(first[0], str):
            return str(first.pop(0))
        return ""


def _tabulated(table: Table) -> Tabulated:
    from rich.text import Text

    def plain(cell: Any) -> str:
        return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain

    columns = tuple(plain(column.header) for column in table.columns)
    cells = [[plain(cell) for cell in column.cells] for column in table.columns]
    right = tuple(i for i, column in enumerate(table.columns) if column.justify == "right")
    return Tabulated(columns, tuple(zip(*cells, strict=True)), right)


def write_page(
    path: Path, title: str, show: Callable[[Any], None], charts: Mapping[str, Any]
) -> None:
    """Write what a command prints as a page, whole or not at all.

    Args:
        title: above the first line that is printed.
        show: prints to the console that it is given.
        charts: Altair charts by their captions.

    Raises:
        ConfigError: the file cannot be written.
    """
    recorder = Recorder()
    show(recorder)
    headline = recorder.headline() or title
    figures = [
        Figure(f"figure-{i}", on_page(chart), caption)
        for i, (caption, chart) in enumerate(charts.items())
    ]
    text = render(
        "page.html.j2",
        title=title,
        headline=headline,
        sections=[section for section in recorder.sections if section.parts],
        figures=figures,
        files={},
    )
    atomic_write(path, text)


def render(
    template: str, *, figures: Sequence[Figure], files: Mapping[str, str], **values: Any
) -> str:
    """A page of a template.

    Args:
        figures: all that the page shows; their captions are the charts' text for who cannot see.
        files: texts that can be saved from the page, by file name.
    """
    specs = {figure.name: {**figure.spec, "description": figure.caption} for figure in figures}
    text: str = (
        _environment()
        .get_template(template)
        .render(
            figures=figures,
            specs=_script(specs),
            files=_script(files),
            library=_library(),
            **values,
        )
    )
    return text


def table_html(table: Tabulated, label: str) -> str:
    """A table with its style, for pages that are not ours.

    Args:
        label: what it is, for those who cannot see it.
    """
    environment = _environment()
    style = environment.get_template("table.css").render()
    macro: Any = environment.get_template("figure.html.j2").module
    return f"<style>{style}</style>{macro.table(table, label)}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("planner.web"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["codes"] = _codes
    return environment


def _codes(text: str) -> Any:
    """Text whose parts in backticks are code."""
    from markupsafe import Markup, escape

    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts)
    )


def _script(data: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(data).replace("<", "\\u003c")


@lru_cache(maxsize=1)
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    bundle: Any = vl_convert.javascript_bundle
    script: str = bundle()
    return script.replace("</script", "<\\/script")
