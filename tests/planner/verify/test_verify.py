"""Load generators' files, what they say of a plan, and the rows they become."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from load_files import JSON_FORMS, aiperf, guidellm, run, table, vllm
from typer.testing import CliRunner, Result

from perfmodel.database import PerfStore
from perfmodel.deployments import Deployment, read_deployments
from perfmodel.errors import ConfigError, InputError
from planner.cli import app
from planner.plan import FleetPlan, Plan
from planner.problem import Problem
from planner.verify import Measured, append_row, compare, read_results, row_of
from planner.verify.compare import split_ttft

STORE = PerfStore()


def written(folder: Path, data: Any, name: str = "bench.json") -> Path:
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


@pytest.mark.parametrize("tool", [*JSON_FORMS, "CSV"])
def test_every_form_says_the_same(tool: str, tmp_path: Path) -> None:
    if tool == "CSV":
        path = written(tmp_path, table(run()), "profile_export.csv")
    else:
        path = written(tmp_path, JSON_FORMS[tool](run()))
    read = read_results(path)
    assert read.tool == ("AIPerf" if tool == "CSV" else tool)
    assert read.qps == pytest.approx(19.8)
    assert read.offered_qps in (20.0, None)
    assert (read.input_tokens, read.output_tokens) == pytest.approx((1000, 100))
    assert (read.completed, read.failed) == (2000, 3)
    for name, value in (("mean", 0.12), ("p50", 0.11), ("p99", 0.26)):
        assert read.ttft[name] == pytest.approx(value)
    assert (read.ttit["mean"], read.ttit["p99"]) == pytest.approx((0.012, 0.018))
    assert read.e2e["mean"] == pytest.approx(1.308)
    assert read.in_flight == pytest.approx(19.8 * 1.308)


def test_results_appended_line_by_line_count_the_last(tmp_path: Path) -> None:
    lines = [json.dumps(vllm(run(qps=qps))) for qps in (1.0, 2.0)]
    assert read_results(written(tmp_path, "\n".join(lines) + "\n")).qps == 2.0


@pytest.mark.parametrize("tool", [*JSON_FORMS, "CSV"])
def test_answers_of_one_token_have_no_time_between_tokens(tool: str, tmp_path: Path) -> None:
    seen = run(output=1.0, ttit=0.0, ttit_p99=0.0, e2e=0.12)
    path = tmp_path / ("bench.csv" if tool == "CSV" else "bench.json")
    written(tmp_path, table(seen) if tool == "CSV" else JSON_FORMS[tool](seen), path.name)
    assert read_results(path).ttit == {}


def test_a_file_of_several_benchmarks(tmp_path: Path) -> None:
    path = written(tmp_path, guidellm(run()))
    assert read_results(path, 1).qps == pytest.approx(19.8)
    with pytest.raises(ConfigError, match=r"requests_per_second: this field is required"):
        read_results(path, 0)
    with pytest.raises(ConfigError, match="has 2 benchmarks"):
        read_results(path, 2)
    with pytest.raises(ConfigError, match="leave --benchmark out"):
        read_results(written(tmp_path, vllm(run()), "one.json"), 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"bench.json:1:2: not valid JSON"),
        ("[1]", "expected a JSON object, got list"),
        ("{}", "of no known form"),
        ({**vllm(run()), "mean_ttft_ms": None}, "mean_ttft_ms: a mean is required"),
        ({**vllm(run()), "completed": 0}, "completed: no request"),
        ({**vllm(run()), "request_throughput": "many"}, "request_throughput: expected a number"),
        ({**vllm(run()), "request_throughput": -1}, "request_throughput: expected a number"),
        ({**vllm(run()), "mean_tpot_ms": True}, "mean_tpot_ms|expected a number"),
        ({**aiperf(run()), "time_to_first_token": 3}, "time_to_first_token: expected a mapping"),
        (
            {**aiperf(run()), "time_to_first_token": {"unit": "furlongs", "avg": 1}},
            "time_to_first_token.unit",
        ),
        ({"successes": {}}, "successes.latency: this field is required"),
        ({"benchmarks": []}, "has 0 benchmarks"),
        ({"benchmarks": [3]}, "benchmarks.0: expected a mapping"),
    ],
)
def test_a_bad_file_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_results(written(tmp_path, content))
    assert str(tmp_path / "bench.json") in str(caught.value)


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_results(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="of no known form"):
        read_results(written(tmp_path, "a,b\n1,2\n", "t.csv"))
    wrong = table(run()).replace("120.00", "fast")
    with pytest.raises(ConfigError, match=r"line 2, avg: expected a number"):
        read_results(written(tmp_path, wrong, "t.csv"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_results(tmp_path / "binary.json")


@pytest.fixture
def planned(solved: Callable[..., Plan], problem_of: Callable[..., Problem]) -> tuple[Any, ...]:
    """A continuous plan, its problem, and a run that is exactly as planned."""
    plan: FleetPlan = solved(runtime="continuous", target="vllm").best
    problem = problem_of(runtime="continuous", target="vllm")
    ttft, waiting = plan.ttft.mean_s, plan.ttft.waiting_s + plan.ttft.admission_s
    seen = Measured(
        tool="vllm bench serve",
        model=None,
        qps=plan.qps,
        offered_qps=plan.qps,
        concurrency=None,
        input_tokens=1000.0,
        output_tokens=100.0,
        completed=100,
        failed=0,
        ttft={"mean": ttft, "p50": ttft - waiting},
        ttit={"mean": plan.ttit_at_load_s},
        e2e={"mean": ttft + 99 * plan.ttit_at_load_s},
    )
    return plan, problem, seen


def test_a_run_as_planned(planned: tuple[Any, ...]) -> None:
    plan, problem, seen = planned
    verdict = compare(problem, plan, seen, STORE)
    assert [one.difference for one in verdict.comparisons] == pytest.approx([0.0] * 5, abs=1e-9)
    assert not any(one.beyond for one in verdict.comparisons)
    assert verdict.cautions == ()
    assert [kept for _, kept in verdict.kept] == [True, True]
    assert all("beyond" not in line for line in verdict.findings)
    assert split_ttft(plan, seen) == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize(
    ("slower", "where"),
    [
        ({"ttit": {"mean": 1.5}}, "decode: 50% slower"),
        ({"ttft": {"mean": 2.0, "p50": 2.0}}, "prefill: "),
        ({"ttft": {"mean": 3.0}}, "queueing: "),
    ],
)
def test_where_a_difference_lies(
    slower: dict[str, dict[str, float]], where: str, planned: tuple[Any, ...]
) -> None:
    plan, problem, seen = planned
    changed = {
        name: {**getattr(seen, name), **{s: getattr(seen, name)[s] * f for s, f in by.items()}}
        for name, by in slower.items()
    }
    verdict = compare(problem, plan, replace(seen, **changed), STORE)
    beyond = [line for line in verdict.findings if line.startswith(where)]
    assert len(beyond) == 1
    others = {"decode: ", "prefill: ", "queueing: "} - {where[: where.index(":") + 2]}
    for line in verdict.findings:
        if any(line.startswith(other) for other in others):
            assert "within" in line


def test_a_fleet_that_does_not_keep_up(planned: tuple[Any, ...]) -> None:
    plan, problem, seen = planned
    verdict = compare(problem, plan, replace(seen, offered_qps=2 * seen.qps), STORE)
    assert verdict.findings[0].startswith("queueing: of 40 requests/s offered 20 were finished")


def test_runs_that_are_not_comparable_say_so(planned: tuple[Any, ...]) -> None:
    plan, problem, seen = planned
    other = replace(seen, qps=10.0, input_tokens=500.0, failed=7, ttit={}, ttft={"mean": 0.1})
    verdict = compare(problem, plan, other, STORE)
    said = "\n".join([*verdict.cautions, *verdict.findings])
    for part in ("input lengths were 500", "10 requests/s", "7 requests failed", "not told apart"):
        assert part in said
    assert "no time per output token" in said


@pytest.mark.parametrize(
    ("name", "told"),
    [("qwen3-8b", False), ("/models/Qwen3-8B/", False), (None, False), ("Qwen/Qwen3-32B", True)],
)
def test_results_of_another_model_say_so(
    name: str | None, told: bool, planned: tuple[Any, ...]
) -> None:
    plan, problem, seen = planned
    assert problem.model.name == "Qwen/Qwen3-8B"
    cautions = compare(problem, plan, replace(seen, model=name), STORE).cautions
    assert any(f"the results are of {name}" in line for line in cautions) == told


def fleet_data(plan: Plan) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(plan.to_dict()))["best"]
    return data


def one_row(path: Path) -> Deployment:
    (row,) = read_deployments(path)
    assert isinstance(row, Deployment), row
    return row


def test_a_run_becomes_a_row_that_calibration_reads(
    solved: Callable[..., Plan], planned: tuple[Any, ...], tmp_path: Path
) -> None:
    plan, problem, seen = planned
    fleet = fleet_data(solved(runtime="continuous", target="vllm"))
    path = tmp_path / "rows.csv"
    append_row(path, row_of(problem, fleet, seen, "first"))
    row = one_row(path)
    pool = plan.pools[0]
    assert (row.model, row.device, row.mode) == ("Qwen/Qwen3-8B", "h100_sxm", "agg")
    assert row.measured == pytest.approx((plan.ttft.mean_s, plan.ttit_at_load_s), rel=1e-3)
    in_flight = seen.qps * seen.e2e["mean"] / pool.replicas
    assert row.load.clients == pytest.approx(in_flight, abs=0.51)
    degrees = row.pools["agg"]
    assert degrees.tp * degrees.pp * degrees.dp == pool.devices_per_replica
    append_row(path, row_of(problem, fleet, seen, "second"))
    assert [r["id"] for r in csv.DictReader(path.open())] == ["first", "second"]
    with pytest.raises(ConfigError, match="has a row 'second' already"):
        append_row(path, row_of(problem, fleet, seen, "second"))


def test_a_disaggregated_run_becomes_a_row(
    solved: Callable[..., Plan],
    problem_of: Callable[..., Problem],
    planned: tuple[Any, ...],
    tmp_path: Path,
) -> None:
    plan = solved(runtime="disaggregated", target="vllm")
    _, _, seen = planned
    row = row_of(problem_of(runtime="disaggregated", target="vllm"), fleet_data(plan), seen, "x")
    append_row(tmp_path / "rows.csv", row)
    read = one_row(tmp_path / "rows.csv")
    assert read.mode == "disagg"
    for pool in plan.best.pools:
        assert read.pools[pool.role].workers == pool.replicas


def test_other_columns_are_kept_and_other_files_refused(
    solved: Callable[..., Plan], planned: tuple[Any, ...], tmp_path: Path
) -> None:
    _, problem, seen = planned
    row = row_of(problem, fleet_data(solved(runtime="continuous", target="vllm")), seen, "mine")
    path = tmp_path / "rows.csv"
    path.write_text("id,model_path,mode,note\nold,m,agg,hello\n")
    append_row(path, row)
    old, new = csv.DictReader(path.open())
    assert (old["note"], new["note"], new["tp_size"]) == ("hello", "", row["tp_size"])
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="not a file of deployments"):
        append_row(other, row)
    assert other.read_text() == "a,b\n1,2\n"
    with pytest.raises(InputError, match="no time per output token"):
        row_of(
            problem,
            fleet_data(solved(runtime="continuous", target="vllm")),
            replace(seen, ttit={}),
            "x",
        )


def planner(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "120"})


def test_the_command(solved: Callable[..., Plan], tmp_path: Path) -> None:
    plan = written(
        tmp_path, json.dumps(solved(runtime="continuous", target="vllm").to_dict()), "plan.json"
    )
    bench = written(tmp_path, vllm(run()))
    rows = tmp_path / "rows.csv"
    done = planner("verify", plan, "--measured", bench, "--rows", rows)
    assert done.exit_code == 0, done.output
    for part in ("planned", "measured", "known error", "decode:", "first token:", "one row added"):
        assert part in done.stdout
    assert one_row(rows).id == "plan-bench"
    again = planner("verify", plan, "--measured", bench, "--rows", rows)
    assert again.exit_code == 2
    assert again.stdout == ""
    assert one_row(rows).id == "plan-bench"
    bad = planner("verify", plan, "--measured", written(tmp_path, "{}", "bad.json"))
    assert (bad.exit_code, bad.stdout) == (2, "")
    assert "of no known form" in bad.stderr
    idle = planner("verify", plan, "--measured", written(tmp_path, vllm(run(qps=0.0)), "idle.json"))
    assert idle.exit_code == 2
    far = planner("verify", plan, "--measured", bench, "--fleet", 99)
    assert "the plan has fleets" in far.stderr
