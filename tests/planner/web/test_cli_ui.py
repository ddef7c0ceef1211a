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
