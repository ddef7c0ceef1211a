"""The comparison with published figures: every entry is complete, and the command compares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from perfmodel.architecture import load_model
from perfmodel.engine import engine_profile
from perfmodel.hardware import load_device
from perfmodel.layout import parse_layout

SCRIPT = Path(__file__).parents[2] / "experiments" / "published_figures.py"
DOCUMENT = yaml.safe_load(SCRIPT.with_suffix(".yaml").read_text())


def test_every_source_says_where_and_when() -> None:
    for source in DOCUMENT["sources"].values():
        assert source["url"].startswith("https://")
        assert source["title"]
        assert source["date"]


@pytest.mark.parametrize("entry", DOCUMENT["configurations"], ids=lambda e: e["name"])
def test_every_configuration_can_be_built(entry: dict[str, object]) -> None:
    assert entry["source"] in DOCUMENT["sources"]
    assert entry["published_setup"]
    engine_profile(str(entry["engine"]))
    load_model(str(entry["model"]))
    world = int(parse_layout(str(entry["layout"])).world[0])
    per = entry.get("per", world)
    assert isinstance(per, int)
    assert world % per == 0
    assert load_device(str(entry["device"])).memory_bytes > 0
    figures = entry["figures"]
    assert isinstance(figures, list)
    assert all(figure["theirs"] > 0 for figure in figures)


def test_the_command_puts_ours_beside_theirs() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--only", "MI300X, one batch"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "1,184" in line)
    ours, ratio = row.split()[-3:-1]
    assert float(ours.replace(",", "")) / 1184 == pytest.approx(float(ratio), abs=0.006)
