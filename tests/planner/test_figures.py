"""One description of a figure, in three formats."""

from __future__ import annotations

from pathlib import Path

import altair as alt
import pytest

from perfmodel.errors import InputError
from planner.figures import COLOURS, GREY, check_ending, colours, data, titled, write_figure


def chart() -> object:
    rows = [{"x": 1.0, "y": 2.0, "kind": "a"}, {"x": 3.0, "y": 1.0, "kind": "b"}]
    colour = alt.Color("kind:N", scale=colours(["a"], ["b"]))
    return titled(
        alt.Chart(data(rows)).mark_point().encode(x="x:Q", y="y:Q", color=colour), "Title"
    )


@pytest.mark.parametrize(
    ("ending", "start"), [("svg", b"<svg"), ("png", b"\x89PNG"), ("html", b"<!DOCTYPE html")]
)
def test_formats(tmp_path: Path, ending: str, start: bytes) -> None:
    path = tmp_path / f"figure.{ending}"
    write_figure(chart(), path)
    assert path.read_bytes().startswith(start)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if ending == "html":
        assert b"cdn.jsdelivr" not in path.read_bytes()


def test_colours_of_names_and_of_the_background() -> None:
    scale = colours(["a", "b"], ["behind"]).to_dict()
    assert scale == {"domain": ["behind", "a", "b"], "range": [GREY, COLOURS[0], COLOURS[1]]}


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.svg, \.png, \.html"):
        check_ending(tmp_path / "figure.gif")
    with pytest.raises(InputError, match="the folder does not exist"):
        check_ending(tmp_path / "none" / "figure.svg")
