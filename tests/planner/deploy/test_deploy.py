"""Plans solved for a target deploy exactly; others say what is lost; the command, end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import pool_of, rollout_of
from test_round_trip import in_script, same
from typer.testing import CliRunner, Result

from perfmodel.errors import InputError
from perfmodel.layout import parse_layout
from perfmodel.precision import Precision
from planner.cli import app
from planner.deploy import ENGINES, InexpressibleError, deployment
from planner.deploy.intent import layout_row, read_rollout, stored_formats
from planner.plan import Plan
from planner.query import Query
from planner.target import TARGETS

DENSE: dict[str, Any] = {}
EXPERTS: dict[str, Any] = {
    "model": "Qwen/Qwen3-30B-A3B",
    "workload": {"qps": 60},
    "search": {"max_replica_devices": 8},
}


def plain(plan: Plan) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(plan.to_dict()))
    return data


@pytest.mark.parametrize("changes", [DENSE, EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_plan_for_a_target_deploys_exactly(
    target: str, changes: dict[str, Any], solved: Callable[..., Plan]
) -> None:
    plan = plain(solved(target=target, **changes))
    for number in range(1 + len(plan["alternatives"])):
        files, gaps = deployment(plan, "plan.json", target, fleet=number)
        assert gaps == []
        assert "Not as planned" not in files["README.md"]
        rollout, _ = read_rollout(plan, "plan.json", number, target)
        for pool in rollout.pools:
            script = files.get(f"launch/{pool.role}.sh", "")
            if rollout.engine == "trtllm":
                same(rollout, pool, yaml.safe_load(files[f"config/{pool.role}.yaml"]))
            elif script:
                same(rollout, pool, in_script(script))


def test_chunks_follow_the_target(space_of: Callable[..., Any]) -> None:
    """Pipelines of vLLM have chunks of at least the other stages' sequences; others' need not."""
    least = {}
    long = {"input_tokens": 100, "output_tokens": 1000}
    for target in ("vllm", "sglang"):
        space = space_of(target=target, slo={}, workload=long)
        (offer,), layout = space.problem.offers, layout_row(pp=4)
        found = space.evaluate("continuous", offer, Precision(), layout)
        least[target] = (found.chunk - 3 * found.batch).min()
    assert least["vllm"] >= 0 > least["sglang"]


def test_a_target_sets_the_engine_and_keeps_encoders_with_prompts(
    make_query: Callable[..., Query],
) -> None:
    assert make_query(target="vllm").engine == "vllm"
    assert make_query(target="llm-d").engine == "vllm"
    assert make_query(target="dynamo").engine == "trtllm"
    assert make_query(target="dynamo", engine="sglang").engine == "sglang"
    assert make_query(target="vllm", engine="trtllm").engine == "trtllm"
    assert make_query(target="vllm").encoder == "colocated"
    assert make_query().encoder == "auto"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "vllm", "encoder": "disaggregated"}, "encode images"),
        ({"target": "sglang", "kv_transfer": {"overlap": "layerwise"}}, "single layers"),
        ({"target": "vllm", "execution": {"sequence_parallelism": True}}, "sequence_parallelism"),
        ({"target": "dynamo", "engine": "pytorch"}, "not pytorch"),
        ({"target": "kserve"}, "target"),
    ],
)
def test_what_a_target_has_not_is_refused(
    changes: dict[str, Any], said: str, make_query: Callable[..., Query]
) -> None:
    with pytest.raises(ValueError, match=said):
        make_query(**changes)


def test_overlap_of_half_batches_follows_the_target(problem_of: Callable[..., Any]) -> None:
    experts = {"model": "Qwen/Qwen3-30B-A3B"}
    assert problem_of(**experts, engine="sglang").engine.splits_batches
    assert problem_of(**experts, target="vllm").engine.splits_batches
    assert not problem_of(**experts, target="trtllm", engine="sglang").engine.splits_batches
    speculation = {"draft_model": "Qwen/Qwen3-0.6B", "draft_tokens": 2, "acceptance": 0.7}
    drafted = problem_of(**experts, target="vllm", speculation=speculation)
    assert not drafted.engine.splits_batches
    assert problem_of(**experts, target="sglang", speculation=speculation).engine.splits_batches


def test_tensorrt_llm_is_not_planned_on_amd_devices(
    space_of: Callable[..., Any], solved: Callable[..., Plan]
) -> None:
    devices = ["h100_sxm", "mi300x"]
    for target, names in (("trtllm", {"h100_sxm"}), ("vllm", set(devices))):
        space = space_of(target=target, devices=devices)
        assert {offer.device.name for offer, _ in space.pairs()} == names
    with pytest.raises(InputError, match="runs on none of mi300x"):
        space_of(target="trtllm", devices=["mi300x"])
    plan = plain(solved(target="vllm", devices=["mi300x"], slo={}))
    files, _ = deployment(plan, "plan.json", "vllm")
    assert "amd.com/gpu" in files["kubernetes/continuous.yaml"]
    assert "ROCm" in files["README.md"]
    with pytest.raises(InputError, match="TensorRT-LLM does not run on mi300x"):
        deployment(plan, "plan.json", "trtllm")


@pytest.fixture(scope="module")
def bent(solved: Callable[..., Plan]) -> dict[str, Any]:
    """A plan with a layout that only SGLang has: two attention ranks of two, experts cut in two."""
    plan = plain(solved(target="sglang", **EXPERTS))
    pool = plan["best"]["pools"][0]
    pool |= {"layout": "attn:TP4 ffn:TP2EP2 PP1", "devices_per_replica": 4}
    return plan


def test_what_a_runtime_lacks_is_an_error_that_says_the_nearest(bent: dict[str, Any]) -> None:
    deployment(bent, "plan.json", "sglang")
    with pytest.raises(InexpressibleError) as caught:
        deployment(bent, "plan.json", "vllm")
    message = str(caught.value)
    assert "attn:TP4 ffn:TP2EP2 PP1" in message
    assert "nearest: attn:TP4 ffn:" in message
    assert "--target vllm" in message


def test_an_approximation_says_so_and_keeps_the_devices(bent: dict[str, Any]) -> None:
    files, gaps = deployment(bent, "plan.json", "vllm", approximate=True)
    assert len(gaps) == 1
    assert "## Not as planned" in files["README.md"]
    flags = in_script(files["launch/continuous.sh"])
    assert flags["--tensor-parallel-size"] * flags["--data-parallel-size"] == 4
    assert parse_layout("attn:TP4 ffn:TP2EP2 PP1").world[0] == 4


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda p: p["best"].pop("pools"), "not a complete plan"),
        (lambda p: p["best"]["pools"][0].update(layout="TP4"), "layout 'TP4'"),
        (lambda p: p["best"]["pools"][0].update(devices_per_replica=3), "has 4 devices"),
        (lambda p: p["best"]["pools"][0].update(role="both"), "a role of"),
        (lambda p: p["best"]["pools"][0].update(batch="many"), "not a complete plan"),
        (lambda p: p["query"].update(model="nobody/nothing"), "nobody/nothing"),
        (lambda p: p["query"].update(model={"recipe": {"parameters": "1B"}}), "no checkpoint"),
    ],
)
def test_a_bad_plan_is_refused(
    break_it: Callable[[dict[str, Any]], Any], said: str, bent: dict[str, Any]
) -> None:
    plan = json.loads(json.dumps(bent))
    break_it(plan)
    with pytest.raises(InputError, match=said):
        deployment(plan, "plan.json", "sglang")


def planner(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def test_the_command(bent: dict[str, Any], tmp_path: Path) -> None:
    path, out = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(json.dumps(bent))
    done = planner("deploy", path, "--target", "sglang", "--out", out)
    assert done.exit_code == 0, done.output
    written = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert written == [
        "README.md",
        "kubernetes/continuous.yaml",
        "kubernetes/models.yaml",
        "launch/continuous.sh",
    ]
    assert all(str(out / name) in done.stdout for name in written)
    near = tmp_path / "near"
    refused = planner("deploy", path, "--target", "vllm", "--out", near)
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert refused.stderr.startswith("error: ")
    assert not near.exists()
    taken = planner("deploy", path, "--target", "vllm", "--out", near, "--approximate")
    assert taken.exit_code == 0
    assert "not as planned" in taken.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "kserve"), "expected one of vllm"),
        (("--target", "vllm", "--fleet", "99"), "the plan has fleets 0 to"),
        (("--target", "sglang", "--out", "."), "already there"),
    ],
)
def test_bad_input_to_the_command(
    arguments: tuple[str, ...], said: str, bent: dict[str, Any], tmp_path: Path
) -> None:
    path, out = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(json.dumps(bent))
    given = [tmp_path if word == "." else word for word in arguments]
    if "--out" not in given:
        given += ["--out", out]
    result = planner("deploy", path, *given)
    assert result.exit_code == 2
    assert said in result.stderr
    assert sorted(tmp_path.iterdir()) == [path]


def test_solve_takes_a_target(tmp_path: Path) -> None:
    query = tmp_path / "query.yaml"
    query.write_text(
        "model: Qwen/Qwen3-8B\nworkload: {qps: 5, input_tokens: 500, output_tokens: 50}\n"
        "devices: [h100_sxm]\nsearch: {max_replica_devices: 2}\n"
    )
    plan = tmp_path / "plan.json"
    done = planner("solve", query, "-q", "--target", "vllm", "--json", plan)
    assert done.exit_code == 0, done.output
    assert json.loads(plan.read_text())["query"]["target"] == "vllm"
    bad = planner("solve", query, "-q", "--target", "kserve")
    assert bad.exit_code == 2
    assert "target" in bad.stderr


def test_a_rack_is_deployed_tray_by_tray(solved: Callable[..., Plan]) -> None:
    plan = plain(solved(target="vllm", devices=["gb200_nvl72"], **EXPERTS))
    pool = plan["best"]["pools"][0]
    pool |= {"layout": "attn:TP8 ffn:TP8 PP1", "devices_per_replica": 8}
    files, _ = deployment(plan, "plan.json", "vllm")
    workload, _ = yaml.safe_load_all(files[f"kubernetes/{pool['role']}.yaml"])
    both = workload["spec"]["leaderWorkerTemplate"]
    (one,) = both["leaderTemplate"]["spec"]["containers"]
    assert (both["size"], one["resources"]["limits"]["nvidia.com/gpu"]) == (2, 4)
    assert "IMEX" in files["README.md"]


def test_both_pools_draft_where_one_does(solved: Callable[..., Plan]) -> None:
    """The pool that computes prompts fills the drafter's cache, which moves with the rest."""
    plan = plain(solved(target="vllm", runtime="disaggregated"))
    plan["best"]["pools"][1] |= {"draft_tokens": 3, "draft_model": "Qwen/Qwen3-0.6B"}
    rollout, _ = read_rollout(plan, "plan.json", 0, "vllm")
    assert [pool.draft_tokens for pool in rollout.pools] == [3, 3]
    assert all(pool.drafting and pool.drafting.model for pool in rollout.pools)


def test_a_pair_that_vllm_cannot_connect_is_refused(solved: Callable[..., Plan]) -> None:
    """Sixteen prefill ranks of eight KV heads, for fewer decode ranks to read."""
    plan = plain(solved(target="vllm", runtime="disaggregated"))
    first, last = plan["best"]["pools"]
    first |= {"layout": "attn:TP16 ffn:TP16 PP1", "devices_per_replica": 16}
    for tp, moves in ((16, True), (8, False)):
        last |= {"layout": f"attn:TP{tp} ffn:TP{tp} PP1", "devices_per_replica": tp}
        for target, refuses in (("vllm", not moves), ("sglang", False)):
            if refuses:
                with pytest.raises(InputError, match=r"prefill: .* none of the layouts that vLLM"):
                    deployment(plan, "plan.json", target)
            else:
                assert deployment(plan, "plan.json", target)[1] == []


@pytest.mark.parametrize(
    ("model", "precision"),
    [("openai/gpt-oss-20b", "mxfp4"), ("deepseek-ai/DeepSeek-V3", "fp8_block")],
)
def test_a_checkpoint_as_published_is_no_condition(
    model: str, precision: str, problem_of: Callable[..., Any]
) -> None:
    """gpt-oss keeps attention in bf16, and has no dense FFN at all."""
    problem = problem_of(model=model, target="vllm")
    (planned,) = problem.precisions
    pool = pool_of(layout_row(), precision=planned)
    rollout = rollout_of("vllm", pool, model=model, checkpoint=stored_formats(problem.model))
    assert precision in rollout.checkpoint.values()
    said = [line for line in ENGINES["vllm"].conditions(rollout, pool) if "serve a check" in line]
    assert said == []
