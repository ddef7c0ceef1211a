"""What commands print, as pages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner, Result

from planner.cli import app
from planner.cli_shared import BAD_INPUT
from planner.web.pages import Recorder, Tabulated, write_page

SMALL: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": ["h100_sxm", "l40s"],
    "search": {"max_replica_devices": 2},
}


def planner(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "80"})


@pytest.fixture
def query(tmp_path: Path) -> Path:
    path = tmp_path / "query.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_lines_headings_and_tables_are_recorded() -> None:
    table = Table("name")
    table.add_column("count", justify="right")
    table.add_row("[b]one[/b]", Text("[2]"))
    recorder = Recorder()
    recorder.print(Text("The answer", style="bold green"))
    recorder.print("and more")
    recorder.print(Text("\nDetails", style="bold"))
    recorder.print(Padding(Group(Text("below"), table), (0, 2)), end="")
    assert recorder.headline() == "The answer"
    first, second = recorder.sections
    assert (first.title, first.parts) == ("", ["and more"])
    assert second.title == "Details"
    assert second.parts == ["below", Tabulated(("name", "count"), (("one", "[2]"),), (1,))]


def test_a_page_has_no_markup_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    lines = ("1 < 2", "see `planner <solve>`", "an odd ` stays")
    write_page(path, "<b>title", lambda console: console.print(*lines), {})
    text = path.read_text()
    assert "see <code>planner &lt;solve&gt;</code>" in text
    assert "an odd ` stays" in text
    assert "&lt;b&gt;title" in text
    assert "1 &lt; 2" in text
    assert "<b>title" not in text


def words(path: Path) -> str:
    """The page's text, its scripts left out."""
    text = re.sub(r"<(script|style).*?</\1>", "", path.read_text(), flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_a_grid_has_a_page(query: Path, tmp_path: Path) -> None:
    page = tmp_path / "grid.html"
    result = planner("whatif", "grid", query, "--vary", "slo.ttit=10ms,30ms", "--report", page)
    assert result.exit_code == 0, result.output
    assert "10ms" in words(page)
    assert "h100_sxm" in words(page) or "l40s" in words(page)
    specs = re.search(r'id="specs">(.*?)</script>', page.read_text(), re.S)
    assert specs
    assert json.loads(specs[1])["figure-0"]["config"]["axis"]["labelColor"] == "currentColor"


def test_a_batch_and_its_fleet_have_pages(tmp_path: Path) -> None:
    folder = tmp_path / "services"
    folder.mkdir()
    for name, qps in (("chat", 20), ("search", 35)):
        fields = {**SMALL, "workload": {**SMALL["workload"], "qps": qps}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    broken = {**SMALL, "slo": {"ttit": "1us"}}
    (folder / "impossible.yaml").write_text(yaml.safe_dump(broken))
    batch, fleet, results = tmp_path / "batch.html", tmp_path / "fleet.html", tmp_path / "results"
    assert planner("batch", folder, "--out", results, "--report", batch).exit_code == 3
    said = words(batch)
    assert "3 services" in said
    assert "Without a plan" in said
    assert "impossible" in said
    planner("fleet", folder, "--results", results, "--report", fleet)
    said = words(fleet)
    assert "per hour: 2 services on" in said
    assert all(name in said for name in ("chat", "search", "Hosts"))


def test_a_page_that_cannot_be_written_is_refused_first(query: Path, tmp_path: Path) -> None:
    page = tmp_path / "missing" / "page.html"
    for command in (
        ["whatif", "shadow", query],
        ["batch", tmp_path, "--out", tmp_path / "results"],
        ["fleet", tmp_path, "--results", tmp_path / "results"],
    ):
        result = planner(*command, "--report", page)
        assert result.exit_code == BAD_INPUT
        assert "the folder does not exist" in result.stderr
    assert not (tmp_path / "results").exists()
