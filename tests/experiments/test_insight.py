"""How experiments judge and show a claim: the verdict follows from the checks alone."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.append(str(Path(__file__).parents[2] / "experiments"))
import insight
from insight import Check, Insight


def outcome(*holds: bool | None) -> Insight:
    import altair as alt

    from planner import figures

    chart = alt.Chart(figures.data([{"x": 1, "y": 2}])).mark_point().encode(x="x:Q", y="y:Q")
    checks = [Check(f"part {i}", "seen", held) for i, held in enumerate(holds)]
    rows = [{"name": "a [b]", "rate": 1234.5}, {"name": "b", "rate": None}]
    claim = "one is more than two, " * 8
    return Insight("claim", claim, ["here", "there"], checks, {"Rates": rows}, chart, {"n": 3})


@pytest.mark.parametrize(
    ("holds", "verdict"),
    [
        ((True, True, None), "reproduced"),
        ((True, False), "partly"),
        ((False, False, None), "refuted"),
    ],
)
def test_the_verdict_follows_from_the_checks(holds: Any, verdict: str) -> None:
    assert outcome(*holds).verdict == verdict


@pytest.mark.parametrize(
    ("values", "low", "high", "holds", "part"),
    [
        ((1.5, 1.7), 1.4, 1.8, True, "p: 1.4 to 1.8x"),
        ((1.5, 1.9), 1.4, 1.8, False, "p: 1.4 to 1.8x"),
        ((3.0,), 3.0, float("inf"), True, "p: at least 3x"),
        ((3.0,), -float("inf"), 2.0, False, "p: at most 2x"),
    ],
)
def test_all_values_within(values: Any, low: float, high: float, holds: bool, part: str) -> None:
    check = Check.within("p", values, low, high)
    assert (check.holds, check.part) == (holds, part)


def test_nothing_found_bears_nothing_out() -> None:
    assert not Check.within("p", [], 0.0, 1.0).holds


def test_claim_and_verdict_come_first_and_numbers_are_saved(tmp_path: Path) -> None:
    text = io.StringIO()
    insight.show(outcome(True, False, None), tmp_path, Console(file=text, width=insight.WIDTH))
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("CLAIM    one is more")
    assert lines[3:6] == ["SET-UP   here", "         there", "VERDICT  partly"]
    assert [line.split()[0] for line in lines[6:9]] == ["yes", "no", "note"]
    assert max(map(len, lines)) <= 80
    assert "1,234" in text.getvalue()
    assert "a [b]" in text.getvalue()
    saved = json.loads((tmp_path / "claim.json").read_text())
    assert (saved["verdict"], saved["n"], len(saved["checks"])) == ("partly", 3, 3)
    assert (tmp_path / "claim.svg").read_text().startswith("<svg")


def test_without_a_folder_nothing_is_saved(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = io.StringIO()
    insight.show(outcome(True), None, Console(file=text))
    assert list(tmp_path.iterdir()) == []
    assert "VERDICT  none" in text.getvalue()
    assert "  note   part 0 -- seen" in text.getvalue()
