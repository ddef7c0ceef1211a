"""Files that are no input, and files that can't be written, given to every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from planner.cli import app
from planner.cli_shared import BAD_INPUT

QUERY = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": ["h100_sxm"],
    "search": {"max_replica_devices": 2},
}
CONTENTS = {
    "empty": b"",
    "list": b"[1, 2]\n",
    "torn": b"{ foo: [ bar\n",
    "binary": bytes(range(256)),
    "zeros": b"\0\0\0",
}
READERS = (
    "solve {}.yaml",
    "whatif grid {}.yaml --vary slo.ttit=20ms",
    "whatif grid q.yaml --changes {}.yaml",
    "whatif grid q.yaml --vary slo.ttit=20ms --add-device {}.yaml",
    "whatif price {}.yaml h100_sxm",
    "whatif pairing {}.yaml h100_sxm l40s",
    "whatif shadow {}.yaml",
    "whatif tornado {}.yaml",
    "whatif grid {}.json --vary slo.ttit=20ms",
    "whatif catalog {}.yaml --results results",
    "batch {}.yaml --out results",
    "fleet {}.yaml --results results",
    "fleet {}.yaml",
    "fleet {}.json",
    "fleet c.yaml --results results --current {}.yaml",
    "report {}.json --out page.html",
    "explain {}.json",
    "explain {}.yaml",
    "deploy {}.json --target vllm --out deployment",
    "verify none.json --measured {}.json",
    "verify none.json --measured {}.csv",
    "calibrate {}.csv --out corrections.yaml",
    "models {}.yaml",
    "models {}.json",
    "devices {}.yaml",
    "tco {}.yaml",
)
WRITERS = (
    "solve q.yaml --json",
    "solve q.yaml --yaml",
    "solve q.yaml --report",
    "report none.json --out",
    "whatif grid q.yaml --vary slo.ttit=20ms --csv",
    "whatif price q.yaml h100_sxm --json",
    "whatif pairing q.yaml h100_sxm l40s --figure",
    "whatif shadow q.yaml --report",
    "whatif tornado q.yaml --csv",
    "whatif catalog c.yaml --results results --json",
    "batch c.yaml --out results --report",
    "fleet c.yaml --results results --out",
    "fleet c.yaml --results results --report",
    "calibrate none.csv --out",
    "verify none.json --measured none.json --rows",
    "perfdb coverage h100_sxm --model llama-3.1-8b --out",
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a query and a catalog of it."""
    monkeypatch.chdir(tmp_path)
    Path("q.yaml").write_text(yaml.safe_dump(QUERY))
    Path("c.yaml").write_text("services:\n  a: {query: q.yaml}\n")


def refused(command: str) -> str:
    """What a command says that must fail cleanly: no half-written file, no words of Python."""
    before = sorted(Path().rglob("*"))
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == BAD_INPUT, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    for word in ("Errno", "Traceback", "NoneType", "<unicode", "object has no", "pydantic"):
        assert word not in result.stderr
    assert sorted(Path().rglob("*")) == before
    return result.stderr


@pytest.mark.parametrize("kind", ["absent", "folder", *CONTENTS])
@pytest.mark.parametrize("command", READERS)
def test_what_is_no_input(command: str, kind: str) -> None:
    name = next(word for word in command.split() if "{}" in word).format(kind)
    if kind == "folder":
        Path(name).mkdir()
    elif kind != "absent":
        Path(name).write_bytes(CONTENTS[kind])
    assert f"{name}:" in refused(command.format(kind))


@pytest.mark.parametrize("command", WRITERS)
def test_what_can_not_be_written(command: str) -> None:
    Path("taken.svg").mkdir()
    assert "no/such.svg: the folder does not exist" in refused(f"{command} no/such.svg")
    assert "taken.svg: is a folder" in refused(f"{command} taken.svg")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "plan.json: not a complete plan: 'query': this field is required"),
        ({"query": 3}, "plan.json: not a complete plan: query"),
        (
            {"query": {**QUERY, "model": 3}},
            "plan.json: not a complete plan: query.model: Input should be a valid string (got 3)",
        ),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        "report plan.json --out page.html",
        "explain plan.json",
        "deploy plan.json --target vllm --out deployment",
        "whatif grid plan.json --vary slo.ttit=20ms",
    ],
)
def test_plans_without_a_query(command: str, query: dict[str, object], said: str) -> None:
    Path("plan.json").write_text(json.dumps({"schema": "planner.plan/1", **query}))
    assert said in refused(command)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("tco h100_sxm --set electricity=6", "from 0 such as 0.08 USD/kWh, got '6' without its"),
        ("models qwen3-9b", "Did you mean qwen3-8b or"),
        ("models x9", "unknown model 'x9'. `planner models` lists all"),
        ("models x9 --search-path none", "none: this folder of the model search path does not"),
        ("devices x9 --search-path none", "none: this folder of the device search path does not"),
        ("fleet none.yaml", "none.yaml: no such file"),
        ("fleet c.yaml", "--results: expected the folder"),
        ("batch c.yaml --out q.yaml", "q.yaml: is no folder"),
        ("perfdb collect t --device cpu --budget-s 0", "--budget-s: expected more than 0, got 0"),
        ("whatif grid q.yaml --price h100_sxm=3EUR", "usd_per_device_hour: unknown unit 'EUR'"),
        ("whatif grid q.yaml --set workload.prefix_cache_hit=30", "a share from 0 to 1"),
    ],
)
def test_what_it_says(command: str, said: str) -> None:
    text = refused(command)
    assert said in text
    assert len(text) < 300


def test_a_catalog_without_a_service_that_reads_is_bad_input() -> None:
    Path("c.yaml").write_text("services:\n  a: {query: none.yaml}\n")
    assert "none.yaml: no such file" in refused("fleet c.yaml --results results")
