"""The command that starts the page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli import app


@pytest.mark.parametrize("options", [[], ["--no-browser"]])
def test_the_page_starts_without_asking_anything(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a first start Streamlit would wait for an email address on the terminal."""
    started: list[list[str]] = []

    monkeypatch.setattr(os, "execv", lambda _path, command: started.append(command))
    ran = CliRunner().invoke(app, ["ui", "--folder", str(tmp_path), *options])
    assert ran.exit_code == 0, ran.output
    (command,) = started
    assert "--server.showEmailPrompt=false" in command
    assert f"--server.headless={str(bool(options)).lower()}" in command


def test_it_says_what_the_page_opens_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execv", lambda _path, _command: None)
    ran = CliRunner().invoke(app, ["ui", "--folder", str(tmp_path)])
    assert f"opens on a built-in query. Under 'Start from': none, {tmp_path} holds" in ran.stderr
    examples = Path(__file__).parents[3] / "examples"
    ran = CliRunner().invoke(app, ["ui", "--folder", str(examples)])
    assert "'Start from': data augmentation deepseek v3, data scoring" in ran.stderr
