"""The newcomer's path is the README's: a plan, a page and manifests, by commands that exist."""

from __future__ import annotations

import importlib
import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import typer

from planner.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def newcomer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module("newcomer")


def test_commands_are_those_of_a_user(newcomer: Any) -> None:
    readme = """Text
```sh
pip install . && planner solve a.yaml   # the main job
pip install -e '.[dev]' && pytest       # a developer's
```
```
planner shown in.yaml
```
```sh
planner deploy plan.json --target vllm --out there
```
"""
    assert newcomer.commands(readme) == [
        "pip install .",
        "planner solve a.yaml",
        "planner deploy plan.json --target vllm --out there",
    ]


def test_the_readme_leads_to_a_plan_a_page_and_manifests(newcomer: Any) -> None:
    typed = newcomer.commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert typed[0] == "pip install ."
    assert re.search("solve .*--json plan.json --report plan.html", "\n".join(typed))
    assert any(command.startswith("planner deploy plan.json") for command in typed)


def test_the_readmes_commands_have_their_options_and_files() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    typed = re.findall(r"`(planner [^`]+)`|^(planner .*?)(?:  #.*)?$", text, re.MULTILINE)
    assert len(typed) > 20
    for one in typed:
        words = shlex.split("".join(one).replace("\\|", "|"))
        for choice in product(*(word.split("|") for word in words[1:])):
            command: Any = typer.main.get_command(app)
            for word in choice:
                if hasattr(command, "commands"):
                    command = command.commands[word]
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in choice if word.startswith("-")} <= known, words
        assert all((ROOT / word).exists() for word in words if word.startswith("examples")), words


def test_a_failing_command_ends_the_run(
    newcomer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomer, "ROOT", tmp_path / "origin")
    newcomer.subprocess.run(["git", "init", "--quiet", tmp_path / "origin"], check=True)
    folder = tmp_path / "new"
    folder.mkdir()
    with pytest.raises(newcomer.subprocess.CalledProcessError):
        newcomer.follow(["test -d .git", "false", "touch ran"], folder)
    assert not (folder / "clone" / "ran").exists()
