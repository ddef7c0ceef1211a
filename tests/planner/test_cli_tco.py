"""Owned devices by the command: `planner tco`, queries that own, and what is said of bad ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from planner.cli import app
from planner.cli_shared import BAD_INPUT

QUERY: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "devices": [{"name": "h100_sxm", "cost": {"capex": "20000 USD"}}],
    "costs": {"electricity": "0.06 USD/kWh", "carbon": "250 g/kWh"},
    "runtime": "continuous",
    "search": {"max_replica_devices": 2},
}


def planner(*arguments: object, columns: int = 80) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": str(columns)})


def asked(folder: Path, **changes: Any) -> Path:
    path = folder / "query.yaml"
    path.write_text(yaml.safe_dump({**QUERY, **changes}, sort_keys=False))
    return path


def refused(*arguments: object) -> str:
    result = planner(*arguments)
    assert result.exit_code == BAD_INPUT, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def test_owning_beside_renting() -> None:
    result = planner("tco", "h100_sxm", "l40s", "--set", "utilization=50%", columns=200)
    assert result.exit_code == 0, result.output
    for part in ("h100_sxm: $", "l40s: $", "Lenovo LP2368", "depreciation", "electricity"):
        assert part in result.stdout
    assert re.search(
        r"\$10\.00 +on-demand +Oracle Cloud, 2026-09-18 +from \d+% of hours", result.stdout
    )
    assert re.search(r"\$2\.65 +reserved +neocloud survey, 2026-06-26 +at any use", result.stdout)
    assert re.search(r"utilization +50 % +query", result.stdout)
    assert re.search(r"pue +1\.54 +Uptime Institute", result.stdout)


def test_a_device_without_a_price_to_rent_and_one_that_never_pays() -> None:
    alone = planner("tco", "b300_sxm")
    assert "no rented price is known" in alone.stdout
    dear = planner("tco", "mi300x", "--set", "capex=1e7 USD")
    assert dear.exit_code == 0
    assert "% of hours" not in dear.stdout
    assert "never" in dear.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mi300x"], "no purchase price of mi300x is shipped"),
        (["h200"], "unknown device 'h200'; did you mean h200_sxm"),
        (["h100_sxm", "--set", "pue=0.5"], "--set pue: expected a factor from 1"),
        (["h100_sxm", "--set", "tea=1"], "expected NAME=VALUE with a name of capex"),
    ],
)
def test_what_tco_refuses(arguments: list[str], said: str) -> None:
    assert said in " ".join(refused("tco", *arguments).split())


def test_a_query_that_owns(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    result = planner("solve", asked(tmp_path), "--json", path)
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    for part in ("(owned, capex $20,000)", "= depreciation $", "(at 250 g/kWh)", "Wh per request"):
        assert part in result.stdout
    plan = json.loads(path.read_text())
    (host,) = plan["best"]["hosts"]
    assert sum(host["owned_usd_per_hour"].values()) == pytest.approx(host["usd_per_device_hour"])
    electricity = plan["assumptions"]["h100_sxm"]["electricity"]
    assert electricity == {"value": 0.06, "unit": "USD/kWh", "source": "query"}
    derived = planner("explain", path)
    assert derived.exit_code == 0, derived.output
    assert "DIFFERS" not in derived.stdout
    said = " ".join(derived.stdout.split())
    for part in (
        "depreciation $0.4326 = $20,000 x (1 - 0.1 residual) / 5 years / 8,760 h / 0.95 in use",
        "x PUE 1.54 x $0.06 per kWh",
        "draw 700 W x 1.38 with hosts x (0.26 + (",
        "kWh per million; x 250 g/kWh",
        "electricity of owned devices at this load",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("changes", "line", "field", "said"),
    [
        ({"devices": [{"name": "h100_sxm", "cost": {"capex": -1}}]}, "capex", "capex", "from 0"),
        ({"devices": [{"name": "h100_sxm", "cost": {"tea": 1}}]}, "tea", "tea", "unknown field"),
        ({"devices": [{"name": "mi300x", "cost": {"pue": 1}}]}, "  cost:", "capex", "no purchase"),
        (
            {"devices": [{"name": "h100_sxm", "cost": {"idle_power": "99%"}}]},
            "idle_power",
            "devices.0.cost.idle_power",
            "idle_power, 99%, is above decode_power",
        ),
        (
            {
                "devices": [
                    {"name": "l40s", "cost": {}},
                    {"name": "h100_sxm", "cost": {}, "usd_per_device_hour": 2},
                ]
            },
            "- name: h100_sxm",
            "devices.1",
            "(rented) or cost (owned), got both",
        ),
        ({"costs": {"hosting": "-3 USD/kW-month"}}, "hosting", "costs.hosting", "from 0"),
        ({"costs": {"hosting": "3 EUR"}}, "hosting", "costs.hosting", "unknown unit 'EUR'"),
        ({"costs": {"capex": 3}}, "capex", "costs.capex", "unknown field"),
        ({"costs": {"prefill_power": 0.1}}, "prefill", "costs.prefill_power", "is above"),
        ({"costs": {"utilization": "0%"}}, "utilization", "costs.utilization", "above 0"),
        ({"costs": 3}, "costs", "costs", "expected a mapping of fields"),
    ],
    ids=str,
)
def test_costs_that_are_none(
    tmp_path: Path, changes: dict[str, Any], line: str, field: str, said: str
) -> None:
    query = asked(tmp_path, **changes)
    stated = refused("solve", query)
    lines = query.read_text().splitlines()
    number = max(i for i, text in enumerate(lines, 1) if line in text)
    assert re.search(rf"query\.yaml:{number}: \S*{re.escape(field)}: ", stated), stated
    assert said in stated


def test_costs_that_add_up_to_nothing(tmp_path: Path) -> None:
    nothing = {"capex": 0, "staff": 0, "hosting": 0, "electricity": 0}
    stated = refused("solve", asked(tmp_path, devices=[{"name": "h100_sxm", "cost": nothing}]))
    assert "devices.0.cost: its costs add up to nothing" in stated


def test_the_example_that_owns(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "owned" / "realtime_agent_qwen3_32b.yaml"
    path = tmp_path / "plan.json"
    result = planner("solve", example, "-q", "--json", path)
    assert result.exit_code == 0, result.output
    plan = json.loads(path.read_text())
    assert plan["best"]["hosts"][0]["owned_usd_per_hour"]
    rented = [f for f in plan["alternatives"] if f["hosts"][0]["device"] == "h200_sxm"]
    assert rented
    assert all(host["owned_usd_per_hour"] is None for host in rented[0]["hosts"])
