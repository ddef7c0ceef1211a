"""Figures: one description, written as SVG, PNG or a page of HTML by the file's ending.

A figure is an Altair chart. Importing this module does not import Altair: that waits until
a figure is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfmodel.errors import InputError
from planner.files import check_writable

if TYPE_CHECKING:
    import altair as alt

ENDINGS = (".svg", ".png", ".html")

COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442")
"""Okabe and Ito's palette, which readers with any colour vision can tell apart."""

GREY = "#bdbdbd"
"""What lies in the background."""

PNG_SCALE = 2.0
"""Pixels per point, for high-density screens."""

Rows = Sequence[Mapping[str, Any]]


def check_ending(path: Path) -> None:
    """Refuse a file that no figure can be written to, before any work is done.

    Raises:
        InputError: another ending, or as `planner.files.check_writable`.
    """
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: expected a file name that ends in {', '.join(ENDINGS)}")
    check_writable(path)


def data(rows: Rows) -> alt.InlineData:
    """Rows as a chart's data, kept inside the figure."""
    import altair as alt

    return alt.InlineData(values=[dict(row) for row in rows])


def colours(names: Sequence[str], background: Sequence[str] = ()) -> alt.Scale:
    """A colour for each name, the same in every panel; grey for those of the background."""
    import altair as alt

    own = [COLOURS[i % len(COLOURS)] for i in range(len(names))]
    return alt.Scale(domain=[*background, *names], range=[*(GREY for _ in background), *own])


def titled(chart: Any, title: str, subtitle: Sequence[str] = ()) -> Any:
    """A whole figure: title, subtitle, and the look that all figures share.

    Args:
        chart: an Altair chart of any kind, without a configuration of its own.
        title: what it shows.
        subtitle: lines below it.
    """
    import altair as alt

    heading = alt.TitleParams(title, subtitle=list(subtitle), anchor="start", offset=12)
    return (
        chart.properties(title=heading, background="white")
        .configure_axis(grid=True, gridColor="#eeeeee", labelFontSize=11, titleFontSize=12)
        .configure_view(stroke="#cccccc")
        .configure_title(fontSize=15, subtitleFontSize=11, subtitleColor="#555555")
        .configure_legend(labelFontSize=11, titleFontSize=12, symbolSize=70)
    )


def write_figure(chart: Any, path: Path) -> None:
    """Write a chart in the format of the file's ending; a reader sees all of it or nothing.

    HTML is interactive and holds all it needs: it opens without a network.

    Raises:
        InputError: as `check_ending`, or the disk is full.
    """
    check_ending(path)
    import altair as alt

    ending = path.suffix.lower().removeprefix(".")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with alt.data_transformers.enable("default", max_rows=None):
            if ending == "html":
                chart.save(temporary, format="html", inline=True)
            elif ending == "png":
                chart.save(temporary, format="png", scale_factor=PNG_SCALE)
            else:
                chart.save(temporary, format="svg")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
