"""What every command prints: help with an example that holds, 80 columns, no colours in a pipe."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from planner.cli import app

ESCAPE = "\x1b"
QUERY: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": {"p99": "800ms"}, "ttit": "30ms"},
    "devices": ["h100_sxm", "mi300x"],
    "search": {"max_replica_devices": 2},
}


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(f"{name} {child}".strip(), inner)


COMMANDS = dict(_commands("", typer.main.get_command(app)))
ALONE = [name for name, command in COMMANDS.items() if not getattr(command, "commands", {})]
"""Without the groups, whose help lists what is in them."""


def run(*arguments: object, columns: int = 80) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": str(columns)})


def width(text: str) -> int:
    """Columns that the longest line takes in a terminal."""

    def columns(line: str) -> int:
        return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)

    return max((columns(line.rstrip()) for line in text.splitlines()), default=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a query, a catalog of it, and its plan."""
    folder = tmp_path_factory.mktemp("output")
    (folder / "query.yaml").write_text(yaml.safe_dump(QUERY))
    services = {"chat": {"query": "query.yaml"}, "search": {"like": "chat"}}
    (folder / "catalog.yaml").write_text(yaml.safe_dump({"services": services}))
    result = run("solve", folder / "query.yaml", "--json", folder / "plan.json", "-q")
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: name or "planner")
def test_help_fits(name: str) -> None:
    result = run(*name.split(), "--help")
    assert result.exit_code == 0
    assert width(result.stdout) <= 80
    assert ESCAPE not in result.stdout


@pytest.mark.parametrize("name", ALONE)
def test_examples_are_commands_with_their_options(name: str) -> None:
    text = COMMANDS[name].help.split("Example: ")[1].split("\n\n")[0]
    words = shlex.split(" ".join(text.split()))
    assert words[: 1 + len(name.split())] == ["planner", *name.split()]
    command, rest = COMMANDS[""], words[1:]
    while getattr(command, "commands", None):
        command, rest = command.commands[rest[0]], rest[1:]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize(
    "arguments",
    [
        "solve {}/query.yaml",
        "solve {}/query.yaml -q",
        "solve {}/query.yaml --search tpe --trials 5",
        "explain {}/plan.json",
        "explain {}/plan.json --fleet 1",
        "fleet {}/catalog.yaml --results {}/results",
        "batch {}/catalog.yaml --out {}/results",
        "models",
        "models deepseek-ai/DeepSeek-V3",
        "devices",
        "schema",
        "schema catalog",
        "devices h100_sxm",
        "tco h100_sxm b200_sxm",
        "doctor",
        "perfdb list",
        "perfdb show h200_sxm trtllm gemm --columns",
        "perfdb show h200_sxm trtllm moe --limit 3",
        "perfdb show h200_sxm trtllm attention_context --limit 3",
        "perfdb coverage h200_sxm --model llama-3.1-8b",
        "whatif price {}/query.yaml mi300x",
        "whatif grid {}/query.yaml --vary workload.qps=10,20 --inventory h100_sxm=0,8",
    ],
)
def test_output_fits_without_colours(arguments: str, folder: Path) -> None:
    result = run(*arguments.replace("{}", str(folder)).split())
    assert result.exit_code == 0, result.output
    assert 0 < width(result.stdout.replace(str(folder), "")) <= 80
    assert "…" not in result.stdout
    assert ESCAPE not in result.output


def test_a_wider_terminal_is_used(folder: Path) -> None:
    wide = run("solve", folder / "query.yaml", columns=140)
    assert 80 < width(wide.stdout) <= 140


def test_verbose_says_each_step_aside(folder: Path) -> None:
    plain = run("solve", folder / "query.yaml", "-q")
    spoken = run("solve", folder / "query.yaml", "-q", "--verbose")
    assert plain.stderr == ""
    assert spoken.stdout == plain.stdout
    lines = spoken.stderr.splitlines()
    assert any("continuous on h100_sxm" in line for line in lines)
    assert len(lines) == len({line.split("%", 1)[1] for line in lines})
    assert lines[-1].endswith("100%  done")


def test_a_pipe_gets_no_colours(folder: Path) -> None:
    kept = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
    done = subprocess.run(
        [sys.executable, "-m", "planner.cli", "solve", folder / "query.yaml"],
        capture_output=True,
        text=True,
        check=True,
        env={**kept, "TERM": "xterm-256color"},
    )
    assert "per hour" in done.stdout
    assert ESCAPE not in done.stdout + done.stderr


def test_a_shell_completes_commands() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("planner")],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "_PLANNER_COMPLETE": "complete_bash",
            "COMP_WORDS": "planner so",
            "COMP_CWORD": "1",
        },
    )
    assert done.stdout.split() == ["solve"]
