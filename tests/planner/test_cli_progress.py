"""Progress where nobody looks at a terminal: lines in a log, or none."""

from __future__ import annotations

import time
from typing import Any

import pytest
import typer

from planner import cli_progress
from planner.cli import app
from planner.cli_progress import progress_bar

LONG = {
    *("solve", "report", "batch", "fleet", "calibrate"),
    *("perfdb collect", "perfdb import", "perfdb check"),
    *(f"whatif {kind}" for kind in ("grid", "price", "pairing", "shadow", "tornado", "catalog")),
}


def told(capsys: pytest.CaptureFixture[str], first_s: float = 0.0, **options: Any) -> list[str]:
    """What is said of three steps, the first of which takes so long."""
    with progress_bar(**options) as progress:
        progress("one", 0.0)
        time.sleep(first_s)
        progress("two", 0.5)
        progress("two", 0.6)
        progress("three", 0.7)
    said = capsys.readouterr()
    assert said.out == ""
    return [line.split("%  ")[1] for line in said.err.splitlines()]


def test_what_is_quick_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys) == []


def test_a_log_gets_lines_some_seconds_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_progress, "PATIENCE_S", 0.01)
    assert told(capsys, first_s=0.2) == ["one"]
    monkeypatch.setattr(cli_progress, "LINE_EVERY_S", 0.0)
    assert told(capsys, first_s=0.2) == ["one", "two", "three"]
    assert told(capsys, first_s=0.2, quiet=True) == []


def test_verbose_says_every_step_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, verbose=True) == ["one", "two", "three"]
    assert told(capsys, verbose=True, quiet=True) == ["one", "two", "three"]


@pytest.mark.parametrize("name", sorted(LONG))
def test_long_commands_may_be_quiet_or_verbose(name: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in name.split():
        command = command.commands[word]
    options = {option for one in command.params for option in one.opts}
    assert {"-q", "--quiet", "-v", "--verbose"} <= options
