"""The `planner` command, end to end: answers, and what it says of bad input."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from perfmodel.hardware import device_names
from perfmodel.units import format_time
from planner.cli import app
from planner.cli_shared import BAD_INPUT, INFEASIBLE

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SMALL: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": ["h100_sxm"],
    "search": {"max_replica_devices": 4},
}


def planner(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100"})


def asked(folder: Path, **changes: Any) -> Path:
    """A query file: the small query with some fields changed (None: left out)."""
    fields = {k: v for k, v in {**SMALL, **changes}.items() if v is not None}
    path = folder / "query.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path


def refused(status: int, *arguments: object) -> str:
    """What standard error says of a run that must fail with this status, and cleanly."""
    result = planner(*arguments)
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr


def solves(path: Path) -> bool:
    result = planner("solve", path, "-q")
    assert result.exit_code in (0, INFEASIBLE)
    return result.exit_code == 0


def explained(path: Path) -> None:
    """Every fleet of a plan is derived anew, to the same figures."""
    plan = json.loads(path.read_text())
    for number, fleet in enumerate([plan["best"], *plan["alternatives"]]):
        result = planner("explain", path, "--fleet", number)
        assert result.exit_code == 0, result.output
        assert "DIFFERS" not in result.stdout
        assert result.stdout.count(" same") == 8
        for pool in fleet["pools"]:
            assert pool["layout"] in result.stdout
        assert "roofline" in result.stdout
        assert "engine overhead" in result.stdout
        assert not re.search(r"\b1 (replicas|hosts|sequences)\b", result.stdout)


def test_there_is_an_example_for_each_service_class() -> None:
    classes = ("text", "multimodal", "realtime", "safety", "augmentation", "scoring")
    assert len(EXAMPLES) == 6
    for name in classes:
        assert any(name in example.stem for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_an_example(example: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    result = planner("solve", example, "-q", "--json", path)
    assert result.exit_code == 0, result.output
    assert re.search(r"\$[\d,]+\.\d\d per hour: \d+ hosts? of \d+ x \w+", result.stdout)
    plan = json.loads(path.read_text())
    assert plan["schema"] == "planner.plan/1"
    # An encoder pool is not chosen jointly with the pools beside it.
    assert plan["search"]["proven"] == ("images" not in plan["query"]["workload"])
    query = yaml.safe_load(example.read_text())
    assert plan["best"]["qps"] == query["workload"]["qps"]
    energy = plan["best"]["energy"]
    watt_hours = energy["wh_per_request"] * plan["best"]["qps"] * 3600
    assert watt_hours == pytest.approx(energy["site_power_w"])
    devices = sum(h["hosts"] * h["devices_per_host"] for h in plan["best"]["hosts"])
    assert sum(power["devices"] for power in energy["drawn"]) == devices
    first = planner("explain", path)
    assert first.exit_code == 0
    assert "DIFFERS" not in first.stdout


def test_a_solve_prints_what_a_person_acts_on(tmp_path: Path) -> None:
    result = planner("solve", asked(tmp_path))
    assert result.exit_code == 0
    assert result.stderr == ""
    for part in (
        "Qwen/Qwen3-8B",
        "per hour",
        "Pools",
        "Latency",
        "TTFT",
        "TTIT",
        "Money",
        "per million input tokens",
        "QPS per USD/hour",
        "per year",
        "Energy",
        "Wh per request",
        "g CO2e per million tokens",
        "Memory",
        "kv cache",
        "bound by",
        "times of TensorRT-LLM, known by",
        "measured",
        "Other fleets",
        "Search",
        "evaluated",
    ):
        assert part in result.stdout


def test_files_written_and_explained(tmp_path: Path) -> None:
    query = asked(tmp_path, devices=["h100_sxm", "a100_sxm"])
    as_json, as_yaml = tmp_path / "plan.json", tmp_path / "plan.yaml"
    result = planner("solve", query, "-q", "--json", as_json, "--yaml", as_yaml)
    assert result.exit_code == 0
    assert json.loads(as_json.read_text()) == yaml.safe_load(as_yaml.read_text())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plan.json", "plan.yaml", "query.yaml"]
    explained(as_json)
    again = planner("explain", as_yaml)
    assert again.exit_code == 0
    assert "DIFFERS" not in again.stdout


@pytest.mark.parametrize(
    "changes",
    [
        {
            "workload": {
                "qps": 30,
                "input_tokens": {"p50": 900, "p99": 3000},
                "output_tokens": {"p50": 80, "p99": 300},
                "prefix_cache_hit": 0.4,
            },
            "slo": {"ttft": {"p99": "400ms"}, "ttit": {"p95": "25ms"}},
            "precision": {"weights": "fp8", "kv": "fp8"},
        },
        {
            "workload": {"qps": "max", "input_tokens": 500, "output_tokens": 50},
            "devices": [{"name": "l40s", "inventory": 8, "usd_per_device_hour": 1.5}],
            "slo": {"e2e": "4s"},
        },
        {"slo": None, "engine": "vllm", "devices": ["mi300x"]},
        {
            "model": "Qwen/Qwen3-30B-A3B",
            "engine": "vllm",
            "devices": ["mi300x"],
            "execution": {"cuda_graphs": False},
        },
    ],
    ids=["percentiles and formats", "as much as possible", "offline, analytic", "experts, eager"],
)
def test_every_kind_of_plan_is_explained(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "plan.json"
    assert planner("solve", asked(tmp_path, **changes), "-q", "--json", path).exit_code == 0
    explained(path)


def test_a_plan_that_was_tampered_with_differs(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert planner("solve", asked(tmp_path), "-q", "--json", path).exit_code == 0
    plan = json.loads(path.read_text())
    plan["best"]["usd_per_hour"] *= 0.99
    path.write_text(json.dumps(plan))
    assert "DIFFERS" in planner("explain", path).stdout


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.pop("best"), "not a complete plan"),
        (lambda p: p.update(query=3), "not a complete plan"),
        (lambda p: p.update(alternatives=None), "not a complete plan"),
        (lambda p: p["best"].update(qps="many"), "not a complete plan"),
        (lambda p: p["best"].update(pools=[3]), "not a complete plan"),
        (lambda p: p["best"]["pools"][0].update(role="cook"), "not a complete plan"),
        (lambda p: p["best"]["pools"][0].update(layout="TP8"), "layout 'TP8'"),
        (lambda p: p["best"]["pools"][0].update(batch=12345), "does not fit"),
        (lambda p: p["best"]["pools"][0].update(device="tpu"), "tpu is not among"),
        (lambda p: p.update(schema="planner.plan/9"), "expected a plan of schema"),
    ],
)
def test_damaged_plans(tmp_path: Path, damage: Any, said: str) -> None:
    path = tmp_path / "plan.json"
    assert planner("solve", asked(tmp_path), "-q", "--json", path).exit_code == 0
    plan = json.loads(path.read_text())
    damage(plan)
    path.write_text(json.dumps(plan))
    assert said in refused(BAD_INPUT, "explain", path)


def test_the_time_to_first_token_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    query = asked(tmp_path, runtime="disaggregated", slo={"ttft": {"p99": "500ms"}})
    assert planner("solve", query, "-q", "--json", path).exit_code == 0
    ttft = json.loads(path.read_text())["best"]["ttft"]
    shown = " ".join(planner("explain", path).stdout.split())
    names = ("service", "waiting", "request handling", "decode admission", "KV transfer")
    terms = ("service", "waiting", "handling", "admission", "transfer")
    parts = " + ".join(
        f"{name} {format_time(ttft[f'{term}_s'])}" for name, term in zip(names, terms, strict=True)
    )
    assert f"TTFT {format_time(ttft['mean_s'])} mean = {parts}" in shown
    assert f"TTFT {format_time(ttft['slo_s'])} at p99" in shown


def test_a_fleet_that_the_plan_lacks(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert planner("solve", asked(tmp_path), "-q", "--json", path).exit_code == 0
    assert "--fleet 99: the plan has fleets 0 to" in refused(
        BAD_INPUT, "explain", path, "--fleet", 99
    )
    assert "no.json: no such file" in refused(BAD_INPUT, "explain", tmp_path / "no.json")


def test_sampling_by_the_command(tmp_path: Path) -> None:
    query = asked(tmp_path, search={"max_replica_devices": 4})
    options = ("solve", query, "-q", "--search", "tpe", "--trials", 18, "--seed", 5)
    first, second = planner(*options), planner(*options)
    assert first.exit_code == 0
    assert first.stdout == second.stdout
    assert "--search: expected exhaustive or tpe" in refused(
        BAD_INPUT, "solve", query, "--search", "grid"
    )


def test_a_search_that_is_kept(tmp_path: Path) -> None:
    query = asked(tmp_path, search={"max_replica_devices": 4})
    kept = tmp_path / "studies.log"
    options = ("solve", query, "-q", "--search", "tpe", "--trials", 6, "--storage", kept)
    first = planner(*options)
    assert first.exit_code == 0, first.output
    written = kept.read_text()
    again = planner(*options)
    assert again.stdout == first.stdout
    assert kept.read_text().count('"found"') == written.count('"found"') > 0
    assert "the folder does not exist" in refused(BAD_INPUT, *options[:-1], tmp_path / "no" / "s")
    assert "--storage keeps the trials of --search tpe" in refused(
        BAD_INPUT, "solve", query, "--storage", kept
    )


def test_which_constraints_exclude_each_other(tmp_path: Path) -> None:
    large: dict[str, Any] = {
        "model": "meta-llama/Llama-3.1-405B",
        "devices": [{"name": "h100_sxm", "inventory": 8}],
        "search": None,
    }
    result = planner("solve", asked(tmp_path, **large))
    assert result.exit_code == INFEASIBLE
    said = " ".join(result.stderr.split())
    assert "inventory of 8 h100_sxm, memory exclude each other; 16 devices in one replica" in said
    large = {**large, "devices": ["h100_sxm"], "search": {"max_replica_devices": 8}}
    said = " ".join(planner("solve", asked(tmp_path, **large)).stderr.split())
    assert "search.max_replica_devices of 8, memory exclude each other; 16 devices" in said


def test_schema() -> None:
    result = planner("schema")
    assert result.exit_code == 0
    for name in ("workload.prefix_cache_hit", "devices[].usd_per_device_hour", "slo.ttit"):
        assert name in result.stdout
    assert json.loads(planner("schema", "--json").stdout)["title"] == "Query"


def test_lists() -> None:
    models = planner("models").stdout
    for name in ("Llama-3.1-70B", "Qwen3-235B-A22B", "DeepSeek-V3", "gpt-oss-120b"):
        assert name in models
    devices = planner("devices").stdout
    for name in device_names():
        assert name in devices
    assert "no (analytic)" in devices
    assert "synthetic/moe-1.8t" in models
    tables = planner("perfdb", "list").stdout
    for part in ("h200_sxm", "trtllm", "1.3.0rc20", "gemm", "100,668"):
        assert part in tables


def test_one_model_in_detail(tmp_path: Path) -> None:
    shown = " ".join(planner("models", "synthetic/moe-1.8t").stdout.split())
    for part in ("1.801 T parameters", "16 experts", "2 per token", "no such model exists"):
        assert part in shown
    shown = planner("models", "Qwen/Qwen3.5-27B").stdout
    assert "gated delta net" in shown
    assert "vision encoder: 27 layers, hidden size 1,152" in " ".join(shown.split())
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("parameters: 1T\ntop_k: 2\n")
    assert "mine.yaml:2: top_k" in refused(BAD_INPUT, "models", recipe)


def test_quiet_is_the_decision_alone(tmp_path: Path) -> None:
    assert "in a few lines" in " ".join(planner("solve", "--help").stdout.split())
    shown = planner("solve", asked(tmp_path), "-q").stdout
    assert "per hour" in shown
    assert "known by" in shown
    assert "Pools" not in shown


def test_help_names_every_command_and_the_exit_status() -> None:
    shown = planner("--help").stdout
    for part in ("solve", "explain", "schema", "models", "devices", "perfdb", "2 bad input"):
        assert part in shown


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from planner.cli import main\n"
        "sys.argv = ['planner', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as exit:\n"
        "    assert not exit.code\n"
        "heavy = {'numpy', 'scipy', 'polars', 'ortools', 'optuna', 'pydantic', 'pandas'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "loaded: []" in run.stdout


# Bad input. Exit status 2: the query is wrong. 3: it is right, and no fleet serves it.


def test_an_unknown_model(tmp_path: Path) -> None:
    query = asked(tmp_path, model="qwen3-9b")
    said = refused(BAD_INPUT, "solve", query)
    assert f"{query}:1: model: unknown model 'qwen3-9b'. Did you mean qwen3-8b" in said


def test_an_unknown_device(tmp_path: Path) -> None:
    query = asked(tmp_path, devices=["a100_sxm", {"name": "h200"}])
    said = refused(BAD_INPUT, "solve", query)
    line = query.read_text().splitlines().index("- name: h200") + 1
    assert f"{query}:{line}: devices.1: unknown device 'h200'; did you mean h200_sxm" in said


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workload": {**SMALL["workload"], "qps": 0}}, "workload.qps"),
        ({"workload": {**SMALL["workload"], "qps": -1}}, "workload.qps"),
        ({"devices": [{"name": "l40s", "usd_per_device_hour": 0}]}, "devices.0.usd_per_device"),
        ({"devices": [{"name": "l40s", "usd_per_device_hour": -2}]}, "devices.0.usd_per_device"),
        ({"slo": {"ttft": "500MB"}}, "slo.ttft"),
        ({"slo": {"ttit": 30}}, "slo.ttit"),
        ({"devices": [{"name": "h100_sxm", "inventory": 4}]}, "devices.0"),
        ({"workload": {**SMALL["workload"], "input_tokens": "1M"}}, "workload"),
        ({"speculation": {"draft_tokens": 1, "acceptance": 0.5}}, "speculation.draft_tokens"),
    ],
    ids=str,
)
def test_a_wrong_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    query = asked(tmp_path, **changes)
    out = tmp_path / "plan.json"
    said = refused(BAD_INPUT, "solve", query, "--json", out)
    assert re.search(rf"query\.yaml:\d+: {re.escape(field)}", said)
    assert not out.exists()


def test_malformed_yaml(tmp_path: Path) -> None:
    query = tmp_path / "query.yaml"
    query.write_text("model: Qwen/Qwen3-8B\nworkload:\n  qps: 20\n input_tokens: 3\n")
    said = refused(BAD_INPUT, "solve", query)
    assert re.search(r"query\.yaml:4:\d+: not valid YAML", said)
    assert "no such file" in refused(BAD_INPUT, "solve", tmp_path / "none.yaml")


def test_a_config_that_lacks_a_field(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "perfmodel" / "data" / "models" / "Qwen--Qwen3-8B.json"
    config = json.loads(shipped.read_text())
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    query = asked(tmp_path, model="mine/config.json")
    assert planner("solve", query, "-q").exit_code == 0
    del config["num_attention_heads"]
    (folder / "config.json").write_text(json.dumps(config))
    said = refused(BAD_INPUT, "solve", query)
    assert "config.json" in said
    assert "num_attention_heads" in said
    assert "required" in said
    (folder / "config.json").write_text('{"model_type": ')
    assert "config.json:1" in refused(BAD_INPUT, "solve", query)


def test_an_output_folder_that_does_not_exist(tmp_path: Path) -> None:
    query = asked(tmp_path)
    for option in ("--json", "--yaml"):
        said = refused(BAD_INPUT, "solve", query, option, tmp_path / "none" / "plan.out")
        assert "the folder does not exist" in said
    assert not (tmp_path / "none").exists()


def slower(slo: dict[str, Any], name: str, factor: float) -> dict[str, Any]:
    """The objectives with one time scaled."""
    value = slo[name]
    if isinstance(value, dict):
        ((statistic, time),) = value.items()
        return {**slo, name: {statistic: f"{float(time[:-2]) * factor:.6g}ms"}}
    return {**slo, name: f"{float(value[:-2]) * factor:.6g}ms"}


def suggested(said: str, name: str) -> Any:
    """The relaxation that a message proposes for one objective."""
    match = re.search(rf"[Ff]easible[^:]*: {name}: (\{{.*?\}}|\S+ms)", said)
    assert match, said
    return yaml.safe_load(match.group(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"slo": {"ttft": "500ms", "ttit": "1ms"}},
        {"slo": {"ttit": "1ms"}, "runtime": "continuous"},
        {"slo": {"ttft": "500ms", "ttit": {"p99": "1ms"}}, "runtime": "disaggregated"},
        {
            "slo": {"ttft": "900ms", "ttit": {"p99": "1ms"}},
            "workload": {"qps": 5, "input_tokens": {"p50": 900, "p99": 4000}, "output_tokens": 9},
            "runtime": "continuous",
        },
    ],
    ids=["mean", "continuous", "p99 of decode", "p99 of mixed iterations"],
)
def test_an_impossible_ttit(tmp_path: Path, changes: dict[str, Any]) -> None:
    out = tmp_path / "plan.json"
    said = refused(INFEASIBLE, "solve", asked(tmp_path, **changes), "--json", out)
    assert not out.exists()
    assert "TTIT 1 ms" in said
    assert "is below" in said
    assert "weight-streaming limit" in said
    assert re.search(r"attn:TP\d+\S* ffn:TP\d+\S* PP\d+ on h100_sxm", said)
    slo = {**changes["slo"], "ttit": suggested(said, "ttit")}
    assert solves(asked(tmp_path, **{**changes, "slo": slo}))
    assert not solves(asked(tmp_path, **{**changes, "slo": slower(slo, "ttit", 0.99)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"slo": {"ttft": "5ms", "ttit": "30ms"}},
        {"slo": {"ttft": "5ms"}, "runtime": "continuous"},
        {
            "slo": {"ttft": {"p99": "20ms"}},
            "workload": {"qps": 9, "input_tokens": {"p50": 900, "p99": 8000}, "output_tokens": 50},
        },
        {"slo": {"ttft": "200ms", "e2e": "100ms"}},
    ],
    ids=["mean", "continuous", "p99", "e2e"],
)
def test_an_impossible_ttft_or_whole(tmp_path: Path, changes: dict[str, Any]) -> None:
    said = refused(INFEASIBLE, "solve", asked(tmp_path, **changes))
    name = "e2e" if "e2e" in changes["slo"] else "ttft"
    slo = {**changes["slo"], name: suggested(said, name)}
    assert solves(asked(tmp_path, **{**changes, "slo": slo}))
    assert not solves(asked(tmp_path, **{**changes, "slo": slower(slo, name, 0.97)}))


def test_two_impossible_objectives_are_both_named(tmp_path: Path) -> None:
    said = refused(INFEASIBLE, "solve", asked(tmp_path, slo={"ttft": "3ms", "ttit": "1ms"}))
    assert "TTFT 3 ms" in said
    assert "TTIT 1 ms" in said
    slo = {name: suggested(said, name) for name in ("ttft", "ttit")}
    assert solves(asked(tmp_path, slo=slo))


def test_a_target_met_only_without_waiting(tmp_path: Path) -> None:
    changes = {
        "runtime": "disaggregated",
        "workload": {"qps": 20, "input_tokens": 8000, "output_tokens": 100},
    }
    said = refused(INFEASIBLE, "solve", asked(tmp_path, slo={"ttft": "5ms"}, **changes))
    idle = re.search(r"is below ([\d.]+) ms", said)
    assert idle
    tight = {"ttft": f"{float(idle.group(1)) + 0.5:g}ms"}
    said = refused(INFEASIBLE, "solve", asked(tmp_path, slo=tight, **changes))
    assert "on an idle system, but with waiting and cache transfer none does" in said
    assert solves(asked(tmp_path, slo={"ttft": suggested(said, "ttft")}, **changes))


def test_a_model_that_fits_nowhere(tmp_path: Path) -> None:
    changes = {
        "model": "meta-llama/Llama-3.1-405B",
        "devices": ["h100_sxm", {"name": "l40s", "inventory": 8}],
        "slo": None,
    }
    said = refused(INFEASIBLE, "solve", asked(tmp_path, **changes))
    assert "Llama-3.1-405B fits on no candidate device" in said
    for device, memory in (("h100_sxm", "79.6 GiB"), ("l40s", "45.0 GiB")):
        assert re.search(rf"{device}: \d+\.\d GiB needed of {memory}", said)
    assert "weights alone takes" in said
    assert "a lower weight precision" in said


def test_a_cache_that_fits_nowhere(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": "meta-llama/Llama-3.1-70B",
        "devices": ["l40s"],
        "search": {"max_replica_devices": 2},
        "precision": {"weights": "fp8"},
        "slo": None,
    }
    short = {"qps": 1, "input_tokens": 500, "output_tokens": 100}
    assert solves(asked(tmp_path, workload=short, **changes))
    long = {**short, "input_tokens": 130000}
    said = refused(INFEASIBLE, "solve", asked(tmp_path, workload=long, **changes))
    assert re.search(r"memory: .* fits on no candidate", said)
    assert "shorter inputs" in said


def test_an_inventory_too_small(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "workload": {**SMALL["workload"], "qps": 900},
        "devices": [{"name": "h100_sxm", "inventory": 8}],
    }
    said = refused(INFEASIBLE, "solve", asked(tmp_path, **changes))
    match = re.search(r"need at least (\d+) h100_sxm \((\d+) more than the inventory of 8\)", said)
    assert match
    needed, missing = int(match.group(1)), int(match.group(2))
    assert needed == 8 + missing
    for count, enough in ((needed, True), (needed - 1, False), (needed - 8, False)):
        query = asked(
            tmp_path, **{**changes, "devices": [{"name": "h100_sxm", "inventory": count}]}
        )
        assert solves(query) == enough


def test_two_inventories_too_small(tmp_path: Path) -> None:
    stock = {"h100_sxm": 8, "a100_sxm": 16}
    changes: dict[str, Any] = {"workload": {**SMALL["workload"], "qps": 900}}

    def with_stock() -> Path:
        devices = [{"name": name, "inventory": count} for name, count in stock.items()]
        return asked(tmp_path, **changes, devices=devices)

    said = refused(INFEASIBLE, "solve", with_stock())
    missing = re.findall(r"(\d+) (\w+) \((\d+) more than the inventory of (\d+)\)", said)
    assert missing
    for needed, name, more, held in missing:
        assert int(held) == stock[name]
        assert int(needed) == int(held) + int(more)
        stock[name] += int(more)
    assert solves(with_stock())


def test_a_format_that_no_device_runs(tmp_path: Path) -> None:
    query = asked(tmp_path, precision={"weights": "mxfp4_mxfp8"}, devices=["a100_sxm"])
    assert solves(query)  # expanded to bf16
    said = refused(BAD_INPUT, "solve", asked(tmp_path, precision={"weights": "fp3"}))
    assert "unknown format 'fp3'" in said


def test_images_are_explained(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    images = {"per_request": 1, "width": 640, "height": 480}
    workload = {"qps": 5, "input_tokens": 500, "output_tokens": 100, "images": images}
    query = asked(tmp_path, model="Qwen/Qwen3-VL-8B-Instruct", workload=workload)
    shown = " ".join(planner("solve", query, "--json", out).stdout.split())
    assert "500 input (and 1 image of 640 x 480 pixels)" in shown
    assert "vision encoder" in shown
    shown = " ".join(planner("explain", out).stdout.split())
    assert "1 sequence of 1,200 patches, 302 tokens" in shown
    assert "vision_" in shown
    assert "DIFFERS" not in shown


def test_a_plan_has_a_page(tmp_path: Path) -> None:
    plan, first, second = (tmp_path / name for name in ("plan.json", "first.html", "second.html"))
    assert planner("solve", asked(tmp_path), "--json", plan, "--report", first, "-q").exit_code == 0
    assert planner("report", plan, "--out", second).exit_code == 0
    assert first.read_text() == second.read_text()
    assert "per hour</h1>" in first.read_text()


def test_a_page_of_no_plan(tmp_path: Path) -> None:
    query = asked(tmp_path)
    refused(BAD_INPUT, "solve", query, "--report", tmp_path / "missing" / "plan.html")
    refused(BAD_INPUT, "report", query, "--out", tmp_path / "plan.html")
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"schema": "planner.plan/1", "query": {"model": "x"}}))
    assert "not a complete plan" in refused(BAD_INPUT, "report", plan, "--out", tmp_path / "p.html")
    assert not list(tmp_path.glob("*.html"))


def test_an_encoder_pool_is_explained(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    images = {"per_request": 2, "tokens": 1000}
    workload = {"qps": 5, "input_tokens": 500, "output_tokens": 100, "images": images}
    query = asked(
        tmp_path,
        model="Qwen/Qwen3-VL-8B-Instruct",
        workload=workload,
        slo={"ttft": "2s"},
        encoder="disaggregated",
    )
    shown = " ".join(planner("solve", query, "--json", out).stdout.split())
    assert "+ encoder pool" in shown
    assert "encoder: a request's images in" in shown
    shown = " ".join(planner("explain", out).stdout.split())
    assert "vision_" not in shown
    assert "transfer of embeddings" in shown
    assert "DIFFERS" not in shown
    data = json.loads(out.read_text())
    data["best"]["encoder"]["device"] = "unheard_of"
    out.write_text(json.dumps(data))
    assert "can't encode the query's images" in refused(BAD_INPUT, "explain", out)


def test_a_stated_load_of_experts_is_explained(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    routing = {"distribution": "power_law", "exponent": 1.0}
    query = asked(tmp_path, model="Qwen/Qwen3-30B-A3B", routing=routing)
    assert planner("solve", query, "--json", out).exit_code == 0
    shown = " ".join(planner("explain", out).stdout.split())
    assert "experts under a stated load: power law 1, contiguous placement" in shown
    assert "times the mean's tokens" in shown
    assert "DIFFERS" not in shown


def test_which_target_and_limit_exclude_each_other(tmp_path: Path) -> None:
    """A prompt of 8K tokens is fast on sixteen devices; eight are too few."""
    changes: dict[str, Any] = {
        "model": "meta-llama/Llama-3.1-70B",
        "workload": {**SMALL["workload"], "input_tokens": 8000},
        "slo": {"ttft": "180ms"},
        "search": None,
    }
    few = asked(tmp_path, **changes, devices=[{"name": "h100_sxm", "inventory": 8}])
    said = refused(INFEASIBLE, "solve", few)
    assert "inventory of 8 h100_sxm, TTFT target of 180 ms exclude each other" in said


def test_a_doubtful_winner_is_named_with_the_next_best(tmp_path: Path) -> None:
    devices = [{"name": "mi300x", "usd_per_device_hour": 0.5}, "h100_sxm"]
    said = planner("solve", asked(tmp_path, devices=devices), "-q").stdout
    assert "caution: mi300x: No operator was measured" in " ".join(said.split())
    assert "without mi300x: $" in said
    assert "h100_sxm" in said
    assert "caution" not in planner("solve", asked(tmp_path), "-q").stdout
