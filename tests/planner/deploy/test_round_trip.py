"""From a pool to an engine's flags, as files hold them, and back to the same layout."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from deployed import (
    DENSE,
    ENGINE_NAMES,
    EXPERTS,
    INDEXED,
    LATENT,
    LAYOUTS,
    layouts_of,
    pool_of,
    rollout_of,
    rollouts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.precision import Precision
from planner.deploy import ENGINES
from planner.deploy.flags import read_words
from planner.deploy.intent import PoolSpec, Rollout, layout_row
from planner.deploy.targets import TARGETS
from spaces.expressible import Place, Traits, expressible


def in_script(text: str) -> dict[str, Any]:
    """The flags of the first host, from a launch script."""
    line = [line for line in text.replace("\\\n", " ").splitlines() if "exec" in line][-1]
    return read_words(shlex.split(line.replace('"$@"', "")))


def in_manifest(text: str, target: str) -> list[dict[str, Any]]:
    """The flags of every host's container, from a manifest."""
    found = []
    for document in yaml.safe_load_all(text):
        spec = document.get("spec", {})
        templates = [c["podTemplate"] for c in spec.get("components", [])]
        if "leaderWorkerTemplate" in spec:
            both = spec["leaderWorkerTemplate"]
            templates = [both["leaderTemplate"], both["workerTemplate"]]
        elif "template" in spec:
            templates = [spec["template"]]
        found += [read_words(t["spec"]["containers"][0]["args"]) for t in templates]
    return found


def same(rollout: Rollout, pool: PoolSpec, flags: dict[str, Any]) -> None:
    read = ENGINES[rollout.engine].settings(flags, is_moe=rollout.is_moe, role=pool.role)
    assert read.layout.rows().tolist() == pool.layout.rows().tolist()
    assert read.batch == pool.batch
    assert read.draft_tokens == pool.draft_tokens
    if pool.role == "continuous":
        assert read.chunk_tokens == pool.chunk_tokens


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_files_give_the_layout_back(engine: str, data: st.DataObject) -> None:
    rollout = data.draw(rollouts(engine))
    files = TARGETS[engine](rollout, ENGINES[engine])
    for pool in rollout.pools:
        if engine == "trtllm":
            same(rollout, pool, yaml.safe_load(files[f"config/{pool.role}.yaml"]))
            continue
        same(rollout, pool, in_script(files[f"launch/{pool.role}.sh"]))
        for flags in in_manifest(files[f"kubernetes/{pool.role}.yaml"], engine):
            same(rollout, pool, flags)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_dynamo_gives_the_layout_back(engine: str, data: st.DataObject) -> None:
    rollout = data.draw(rollouts(engine))
    files = TARGETS["dynamo"](rollout, ENGINES[engine])
    _, *workers = in_manifest(files["kubernetes/dynamo.yaml"], "dynamo")
    for pool, flags in zip(rollout.pools, workers, strict=True):
        if engine == "trtllm":
            assert flags["--extra-engine-args"] == f"/etc/planner/{pool.role}.yaml"
            flags = yaml.safe_load(files[f"config/{pool.role}.yaml"])
        same(rollout, pool, flags)


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_llm_d_gives_the_layout_back(data: st.DataObject) -> None:
    rollout = data.draw(rollouts("vllm"))
    files = TARGETS["llm-d"](rollout, ENGINES["vllm"])
    for pool in rollout.pools:
        for flags in in_manifest(files[f"kubernetes/{pool.role}.yaml"], "llm-d"):
            same(rollout, pool, flags)
            assert flags["--port"] == (8200 if pool.role == "decode" else 8000)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize("model", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_layouts_that_are_not_expressible_do_not_come_back(engine: str, model: Traits) -> None:
    """The rule is no stricter in its degrees than what the flags lose."""
    others = LAYOUTS[~expressible(engine, model).of(LAYOUTS)]
    lost = 0
    for row in others.rows()[:: max(len(others) // 300, 1)]:
        layout = layout_row(
            **dict(zip(("pp", "tp_a", "cp_a", "dp_a", "tp_f", "ep_f", "dp_f"), row, strict=True))
        )
        pool = pool_of(layout)
        rollout = rollout_of(engine, pool, experts=128 if model.is_moe else 0)
        launch = ENGINES[engine].launch(rollout, pool)
        flags = launch.config[1] if launch.config else launch.flags
        read = ENGINES[engine].settings(flags, is_moe=model.is_moe, role=pool.role)
        lost += read.layout.rows().tolist() != layout.rows().tolist()
    assert lost > 200


@pytest.mark.parametrize(
    ("engine", "row", "flags"),
    [
        (
            "vllm",
            (1, 2, 1, 4, 1, 8, 1),
            {
                "--tensor-parallel-size": 2,
                "--data-parallel-size": 4,
                "--enable-expert-parallel": True,
            },
        ),
        (
            "vllm",
            (2, 4, 1, 1, 4, 1, 1),
            {"--tensor-parallel-size": 4, "--pipeline-parallel-size": 2},
        ),
        (
            "sglang",
            (1, 2, 1, 4, 1, 8, 1),
            {"--tp-size": 8, "--attn-dp-size": 4, "--ep-size": 8},
        ),
        ("sglang", (1, 4, 1, 1, 2, 2, 1), {"--tp-size": 4, "--attn-dp-size": 1, "--ep-size": 2}),
    ],
)
def test_known_layouts(engine: str, row: tuple[int, ...], flags: dict[str, Any]) -> None:
    names = ("pp", "tp_a", "cp_a", "dp_a", "tp_f", "ep_f", "dp_f")
    pool = pool_of(layout_row(**dict(zip(names, row, strict=True))))
    written = ENGINES[engine].launch(rollout_of(engine, pool), pool).flags
    assert {name: written[name] for name in flags} == flags


def test_tensorrt_llm_divides_experts_and_attention() -> None:
    pool = pool_of(layout_row(dp_a=8, tp_f=2, ep_f=4))
    launch = ENGINES["trtllm"].launch(rollout_of("trtllm", pool), pool)
    assert launch.config is not None
    config = launch.config[1]
    assert config["tensor_parallel_size"] == 8
    assert config["enable_attention_dp"] is True
    assert (config["moe_tensor_parallel_size"], config["moe_expert_parallel_size"]) == (2, 4)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_a_step_holds_the_planned_tokens(engine: str) -> None:
    """12 decodes beside a chunk of 1,024, per rank; SGLang counts over its two ranks."""
    pool = pool_of(layout_row(dp_a=2, ep_f=2), batch=12, chunk_tokens=1024)
    launch = ENGINES[engine].launch(rollout_of(engine, pool), pool)
    flags = launch.config[1] if launch.config else launch.flags
    if engine == "vllm":
        assert (flags["--max-num-seqs"], flags["--max-num-batched-tokens"]) == (12, 1036)
    elif engine == "sglang":
        assert (flags["--max-running-requests"], flags["--chunked-prefill-size"]) == (24, 2048)
    else:
        assert (flags["max_batch_size"], flags["max_num_tokens"]) == (12, 1036)


def test_vllm_takes_no_fewer_tokens_in_a_step_than_it_has_sequences() -> None:
    """`SchedulerConfig` refuses less: 8 stages of 80 are 640, a chunk of 256 and decodes 336."""
    vllm = ENGINES["vllm"]
    pool = pool_of(layout_row(tp_a=2, tp_f=2, pp=8), batch=80, chunk_tokens=256)
    rollout = rollout_of("vllm", pool)
    flags = vllm.launch(rollout, pool).flags
    assert (flags["--max-num-seqs"], flags["--max-num-batched-tokens"]) == (640, 640)
    (gap,) = vllm.gaps(rollout, pool)
    assert "chunks of 256 tokens" in gap.what
    assert gap.nearest == "chunks of 560 tokens"
    assert vllm.gaps(rollout, replace(pool, chunk_tokens=560)) == []
    assert ENGINES["sglang"].gaps(rollout, pool) == []


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_every_host_of_a_replica_starts_its_part(engine: str) -> None:
    pool = pool_of(layout_row(tp_a=16, tp_f=16), host_devices=8)
    files = TARGETS[engine](rollout_of(engine, pool), ENGINES[engine])
    (document, service) = yaml.safe_load_all(files["kubernetes/continuous.yaml"])
    both = document["spec"]["leaderWorkerTemplate"]
    assert (document["kind"], both["size"]) == ("LeaderWorkerSet", 2)
    for template in (both["leaderTemplate"], both["workerTemplate"]):
        one = template["spec"]["containers"][0]
        assert one["resources"]["limits"] == {"nvidia.com/gpu": 8, "rdma/ib": 1}
        flags = read_words(one["args"])
        assert (flags["--nnodes"], flags["--node-rank"]) == (2, "$(LWS_WORKER_INDEX)")
    assert service["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
    script = files["launch/continuous.sh"]
    assert re.search(r'--node-rank "\$\{NODE_RANK:\?\}"', script)
    assert ("--headless" in script) == (engine == "vllm")


def test_context_parallelism_as_each_engine_has_it() -> None:
    """vLLM's splits prompts and caches, TensorRT-LLM's caches as tokens are decoded."""
    split = pool_of(
        layout_row(cp_a=8, tp_f=8), role="prefill", precision=Precision(*["fp8_block"] * 3, "fp8")
    )
    whole = pool_of(layout_row(dp_a=8, ep_f=8), role="decode")
    pair = rollout_of("vllm", split, whole)
    flags = ENGINES["vllm"].launch(pair, split).flags
    assert flags["--prefill-context-parallel-size"] == flags["--decode-context-parallel-size"] == 8
    assert flags["--tensor-parallel-size"] == 1
    for pool in pair.pools:  # the handshake compares it
        assert ENGINES["vllm"].launch(pair, pool).flags["--attention-backend"] == "FLASHMLA_SPARSE"

    helix = pool_of(layout_row(pp=2, tp_a=2, cp_a=4, tp_f=2, ep_f=4), role="decode")
    pair = rollout_of("trtllm", replace(whole, role="prefill"), helix)
    first, last = (ENGINES["trtllm"].launch(pair, pool).config for pool in pair.pools)
    assert first is not None
    assert last is not None
    assert (last[1]["tensor_parallel_size"], last[1]["context_parallel_size"]) == (2, 4)
    assert last[1]["cp_config"] == {"cp_type": "HELIX", "tokens_per_block": 32}
    assert "cp_config" not in first[1]
    for config in (first[1], last[1]):
        assert config["kv_cache_config"]["tokens_per_block"] == 32


def test_prefixes_in_host_memory_go_beside_the_transfer() -> None:
    """vLLM's flag for them would put its connector in the place of NIXL's."""
    pools = [pool_of(layout_row(tp_a=2, tp_f=2), role=role) for role in ("prefill", "decode")]
    pair = rollout_of("vllm", *pools, prefix_tier="host", prefix_host_bytes=2.0**30)
    first, last = (ENGINES["vllm"].launch(pair, pool).flags for pool in pools)
    both = first["--kv-transfer-config"]["kv_connector_extra_config"]["connectors"]
    assert [one["kv_connector"] for one in both] == ["NixlConnector", "OffloadingConnector"]
    assert both[1]["kv_connector_extra_config"]["cpu_bytes_to_use"] == 2 * 2**30
    assert first["--kv-offloading-size"] is None
    assert last["--kv-transfer-config"]["kv_connector"] == "NixlConnector"


def test_pools_of_two_devices_agree_on_what_servers_compare() -> None:
    pools = [
        pool_of(layout_row(), role=role, device=device)
        for role, device in (("prefill", "h100_sxm"), ("decode", "b200_sxm"))
    ]
    for pool in pools:
        flags = ENGINES["sglang"].launch(rollout_of("sglang", *pools), pool).flags
        assert flags["--page-size"] == 64
    said = ENGINES["vllm"].conditions(rollout_of("vllm", *pools), pools[1])
    assert any("same attention backend" in line for line in said)


def test_large_decode_steps_are_captured_too() -> None:
    for batch, size in ((256, None), (1024, 1024)):
        pool = pool_of(layout_row(), batch=batch)
        flags = ENGINES["vllm"].launch(rollout_of("vllm", pool), pool).flags
        assert flags["--max-cudagraph-capture-size"] == size


@pytest.mark.parametrize(
    ("engine", "model", "role"),
    [
        ("vllm", INDEXED, "prefill"),
        ("vllm", INDEXED, "continuous"),
        ("trtllm", LATENT, "decode"),
    ],
)
def test_every_layout_with_context_parallelism_comes_back(
    engine: str, model: Traits, role: str
) -> None:
    layouts = layouts_of(engine, model, Place(role))
    layouts = layouts[layouts.cp_a > 1]
    assert len(layouts) > 5
    for i in range(len(layouts)):
        chunk = 1024 if role == "continuous" else None
        pool = pool_of(layouts[np.array([i])], role=role, chunk_tokens=chunk)
        launch = ENGINES[engine].launch(rollout_of(engine, pool), pool)
        flags = launch.config[1] if launch.config else launch.flags
        same(rollout_of(engine, pool), pool, dict(flags))
