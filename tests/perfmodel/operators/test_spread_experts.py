"""Experts on devices that do not share tokens: tables reproduced, and continued beyond."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.architecture import load_model
from perfmodel.database import PerfStore
from perfmodel.engine import engine_profile
from perfmodel.hardware import load_device
from perfmodel.layout import parse_layout
from perfmodel.operators import Group, Kind, Operators, OperatorTime, Tokens
from perfmodel.operators.all_to_all import SMS, AllToAll
from perfmodel.operators.base import largest
from perfmodel.operators.moe import nearest_routings
from perfmodel.precision import Precision
from perfmodel.step import StepModel
from perfmodel.work import StepWork

DEEPSEEK = {"hidden": 7168, "intermediate": 2048, "top_k": 8, "experts": 256, "slots": 256}
SHORT = ("h100_sxm", "sglang")
FP8 = {"dtype": "fp8_block", "routing": "balanced"}

_OPERATORS: dict[tuple[str, str], Operators] = {}


STORE = PerfStore()


def operators(device: str, engine: str) -> Operators:
    key = (device, engine)
    if key not in _OPERATORS:
        _OPERATORS[key] = Operators(load_device(device), engine, STORE)
    return _OPERATORS[key]


def columns(shape: Mapping[str, float]) -> dict[str, np.ndarray]:
    return {name: np.array([[float(value)]]) for name, value in shape.items()}


def travel(
    device: str,
    engine: str,
    count: object,
    *,
    size: int = 32,
    stride: int = 1,
    prompts: object = (True,),
    sent: str = "fp8",
    hidden: int = 7168,
) -> tuple[OperatorTime, OperatorTime]:
    """Dispatch and combine of one group."""
    tokens = Tokens(
        np.atleast_2d(np.asarray(count, dtype=float)), hidden, 8, 256, sent, np.array(prompts)
    )
    group = Group(np.array([[float(size)]]), np.array([[float(stride)]]))
    exchange = operators(device, engine).exchange
    return exchange.dispatch(group, tokens), exchange.combine(group, tokens)


# Rows of the shipped tables.
EXPERTS = [
    (SHORT, "context", "balanced", 32, 524_288, 14_264.6e-6),
    (SHORT, "context", "power_law_1.01", 32, 16_384, 1_285.4e-6),
    (SHORT, "generation", "balanced", 64, 8_192, 109.9e-6),
    (("gb200_nvl72", "sglang"), "generation", "balanced", 128, 16_384, 62.6e-6),
    (("h100_sxm", "trtllm"), "context", "power_law_1.01_eplb", 32, 16_384, 945.3e-6),
    (("h100_sxm", "trtllm"), "generation", "power_law_1.01_eplb", 32, 16_384, 945.3e-6),
]


@pytest.mark.parametrize(("where", "phase", "routing", "ep", "tokens", "expected"), EXPERTS)
def test_experts_of_the_tables(
    where: tuple[str, str], phase: str, routing: str, ep: int, tokens: int, expected: float
) -> None:
    dtype = {"phase": phase, "dtype": "fp8_block", "routing": routing}
    shape = columns(DEEPSEEK | {"ep": ep, "tokens": tokens})
    time = operators(*where).dispatched_experts.time(dtype, shape)
    assert time.seconds[0, 0] == pytest.approx(expected, rel=1e-3)
    assert time.kind[0, 0] == Kind.MEASURED


# SGLang's: (devices, prompts, tokens of each, to send, to return), in us.
TRIPS = [
    ("h100_sxm", "sglang", 8, True, 16_384, 1_960.1, 3_565.4),
    ("h100_sxm", "sglang", 32, True, 16_384, 7_027.8, 13_808.5),
    ("h100_sxm", "sglang", 64, False, 128, 166.8, 304.7),
    ("h100_sxm", "trtllm", 64, False, 128, 166.8, 304.7),
]


@pytest.mark.parametrize(("device", "engine", "size", "prompts", "count", "out", "back"), TRIPS)
def test_exchanges_of_the_tables(
    device: str, engine: str, size: int, prompts: bool, count: int, out: float, back: float
) -> None:
    there, home = travel(device, engine, count, size=size, prompts=(prompts,))
    assert there.seconds[0, 0] == pytest.approx(out * 1e-6, rel=1e-3)
    assert home.seconds[0, 0] == pytest.approx(back * 1e-6, rel=1e-3)
    own = Kind.MEASURED if engine == "sglang" else Kind.EXTRAPOLATED
    assert there.kind[0, 0] == home.kind[0, 0] == own


def test_a_wide_domain_takes_the_engines_own_kernels() -> None:
    for prompts in (True, False):
        there, back = travel(
            "gb200_nvl72", "trtllm", 8_192, size=32, prompts=(prompts,), sent="nvfp4"
        )
        assert there.seconds[0, 0] == pytest.approx(424.2e-6, rel=1e-3)
        assert back.seconds[0, 0] == pytest.approx(1_417.6e-6, rel=1e-3)


def test_no_measured_exchange_beats_its_roofline(store: PerfStore) -> None:
    """So that the traffic assumed is what went over the wire: its format, each token how often."""
    tables = [info for info in store.describe() if info.family == "all_to_all"]
    assert len(tables) >= 8
    for info in tables:
        model = AllToAll(load_device(info.device), info.engine, store)
        frame = store.table(info.device, info.engine, info.family)
        assert frame is not None
        for labels, rows in frame.group_by("operation", "mode", "dtype"):
            categories = dict(zip(("operation", "mode", "dtype"), map(str, labels), strict=True))
            if categories["operation"] == "combine_low_precision":
                continue
            floor = largest(model.roofline(categories, model.columns(rows)))
            assert (rows["time_s"].to_numpy() >= floor).all(), (info, categories)


def assert_grows(count: np.ndarray, time: OperatorTime) -> None:
    """With four times the tokens; measurements of few are of launches, and scatter."""
    seconds = time.seconds[0, count >= 256]
    assert (np.diff(seconds) > -0.15 * seconds[:-1]).all()
    assert time.seconds[0, -1] > 2 * time.seconds[0, 0] > 0


@settings(deadline=None, max_examples=40)
@given(
    where=st.sampled_from(
        [SHORT, ("h200_sxm", "vllm"), ("gb200_nvl72", "trtllm"), ("b200_sxm", "trtllm")]
    ),
    size=st.sampled_from([1, 2, 8, 16, 24, 64, 72, 256]),
    stride=st.sampled_from([1, 2]),
    hidden=st.sampled_from([2048, 7168]),
    prompts=st.booleans(),
)
def test_exchanges_grow_and_stay_above_their_roofline(
    where: tuple[str, str], size: int, stride: int, hidden: int, prompts: bool
) -> None:
    count = 2.0 ** np.arange(0, 18, 2)
    for time in travel(
        *where, count, size=size, stride=stride, hidden=hidden, prompts=(prompts,) * len(count)
    ):
        assert np.isfinite(time.seconds).all()
        assert (time.seconds >= time.floor_s).all()
        if size == 1:
            assert (time.seconds == 0).all()
        else:
            assert_grows(count, time)


@settings(deadline=None, max_examples=40)
@given(
    where=st.sampled_from([SHORT, ("h100_sxm", "trtllm"), ("gb200_nvl72", "vllm")]),
    ep=st.sampled_from([2, 8, 24, 72, 128, 512]),
    prompts=st.booleans(),
    routing=st.sampled_from(["balanced", "power_law_1.01", "power_law_1.2_eplb"]),
)
def test_experts_grow_and_stay_above_their_roofline(
    where: tuple[str, str], ep: int, prompts: bool, routing: str
) -> None:
    count = 2.0 ** np.arange(0, 16, 2)
    shape = columns(DEEPSEEK | {"ep": ep, "slots": np.ceil(256 / ep) * ep})
    time = operators(*where).dispatched_experts.serve(
        "fp8_block",
        routing,
        shape | {"tokens": count[None] * ep},
        np.full(len(count), prompts),
        np.array([[256.0]]),
    )
    assert (time.seconds >= time.floor_s).all()
    assert_grows(count, time)


def test_beyond_the_tables_time_continues() -> None:
    experts = operators(*SHORT).dispatched_experts
    labels = {"phase": "context", **FP8}
    for ep, tokens in ((32, 524_288.0), (256, 524_288.0)):
        inside, outside = (
            experts.time(labels, columns(DEEPSEEK | {"ep": ep, "tokens": tokens * more}))
            for more in (1.0, 1.001)
        )
        assert outside.seconds[0, 0] == pytest.approx(inside.seconds[0, 0], rel=2e-3)
        assert (inside.kind[0, 0], outside.kind[0, 0]) == (Kind.MEASURED, Kind.EXTRAPOLATED)
    for size in (64, 72, 128, 256):
        small, large = (
            travel(*SHORT, 4_096.0 * more, size=size)[0].seconds[0, 0] for more in (32.0, 32.03)
        )
        assert small < large < 1.01 * small


def test_a_group_beyond_the_largest_keeps_its_distance_from_the_roofline() -> None:
    largest_group, larger = (travel(*SHORT, 16_384, size=size)[0] for size in (64, 256))
    ratio = largest_group.seconds / largest_group.floor_s
    assert larger.seconds / larger.floor_s == pytest.approx(ratio, rel=0.02)
    assert larger.kind[0, 0] == Kind.EXTRAPOLATED


def test_more_decodes_than_the_buffers_hold_take_the_prompts_kernels() -> None:
    limit = operators(*SHORT).exchange.few_tokens(Group(np.array([[64.0]]), np.ones((1, 1))))
    assert limit[0, 0] == 256
    counts = [256.0, 257.0, 4_096.0]
    decodes = travel(*SHORT, counts, size=64, prompts=(False,) * 3)[1].seconds[0]
    prompts = travel(*SHORT, counts, size=64, prompts=(True,) * 3)[1].seconds[0]
    assert decodes[0] < decodes[1]
    assert decodes[0] < prompts[0]
    assert decodes[1:] == pytest.approx(prompts[1:])


def test_columns_do_not_depend_on_each_other() -> None:
    """Prompts and decodes asked for together, or apart."""
    counts, prompts = [64.0, 2_000.0, 128.0, 9.0], (False, True, False, True)
    together = travel(*SHORT, counts, size=32, prompts=prompts)
    for i, (count, has) in enumerate(zip(counts, prompts, strict=True)):
        for all_of_them, alone in zip(
            together, travel(*SHORT, count, size=32, prompts=(has,)), strict=True
        ):
            assert all_of_them.seconds[0, i] == alone.seconds[0, 0]


@pytest.mark.parametrize(
    "other",
    [{"hidden": 4096}, {"intermediate": 1024}, {"top_k": 4}, {"experts": 128, "slots": 128}],
)
def test_other_shapes_are_carried_over_by_the_roofline(other: dict[str, float]) -> None:
    experts = operators(*SHORT).dispatched_experts
    labels = {"phase": "context", **FP8}
    own = experts.time(labels, columns(DEEPSEEK | {"ep": 32, "tokens": 262_144}))
    # Of as many tokens for each expert.
    per_expert = 262_144 * (8 / other.get("top_k", 8)) * (other.get("experts", 256) / 256)
    changed = experts.time(labels, columns({**DEEPSEEK, "ep": 32, "tokens": per_expert, **other}))
    assert changed.kind[0, 0] == Kind.EXTRAPOLATED
    ratio = own.seconds[0, 0] / own.floor_s[0, 0]
    # Launches take as long for less work.
    assert 0.98 * ratio < changed.seconds[0, 0] / changed.floor_s[0, 0] < 1.2 * ratio


def test_other_formats_and_routings_stand_in_marked() -> None:
    experts = operators(*SHORT).dispatched_experts
    shape = columns(DEEPSEEK | {"ep": 32, "tokens": 8_192})
    for labels in (
        {"dtype": "bf16", "routing": "balanced"},
        {"dtype": "fp8_block", "routing": "power_law_1.01_eplb"},
    ):
        assert experts.time({"phase": "context", **labels}, shape).kind[0, 0] == Kind.EXTRAPOLATED
    balanced = experts.time({"phase": "context", **FP8}, shape)
    placed = experts.time({"phase": "context", **FP8, "routing": "power_law_1.01_eplb"}, shape)
    assert placed.seconds == pytest.approx(balanced.seconds)
    assert nearest_routings("power_law_1.2_eplb")[:2] == ("power_law_1.2_eplb", "balanced")


def test_without_a_table_the_exchange_is_alpha_beta() -> None:
    ops = operators("mi300x", "vllm")
    group = Group(np.array([[16.0]]), np.ones((1, 1)))
    there, back = travel("mi300x", "vllm", 512, size=16, sent="bf16")
    expected = ops.collectives.dispatch(group, 7168 * 2.0, np.array([[512.0]]), 8)
    for time in (there, back):
        assert time.seconds == pytest.approx(expected.seconds)
        assert time.kind[0, 0] == Kind.ANALYTIC


def test_without_a_table_products_are_padded_to_tiles() -> None:
    """Compute-bound, an expert with a tile and one token more costs as with two tiles."""
    experts = operators("mi300x", "vllm").dispatched_experts
    labels = {"phase": "context", **FP8}

    def of(tokens_per_expert: float) -> float:
        tokens = tokens_per_expert * 256 / 8
        time = experts.time(labels, columns(DEEPSEEK | {"ep": 32, "tokens": tokens}))
        assert time.kind[0, 0] == Kind.ANALYTIC
        return float(time.seconds[0, 0])

    assert of(8 * 128 + 1) == pytest.approx(of(9 * 128), rel=1e-6)
    assert of(9 * 128) > 1.1 * of(8 * 128)


def test_wide_attention_of_the_tables() -> None:
    ops = operators(*SHORT)
    labels = {"gemm_dtype": "fp8_block", "dtype": "bf16", "kv_dtype": "fp8"}
    prompt = columns({"heads": 128, "batch": 8, "tokens": 2048, "prefix_tokens": 0})
    decode = columns({"heads": 128, "batch": 128, "context_tokens": 2048})
    context = ops.wide_mla_context.time(labels, prompt)
    assert context.seconds[0, 0] == pytest.approx(7_785e-6, rel=1e-3)
    generation = ops.wide_mla_generation.time(labels, decode)
    assert generation.seconds[0, 0] == pytest.approx(266e-6, rel=3e-3)
    assert context.kind[0, 0] == generation.kind[0, 0] == Kind.MEASURED
    with_down = ops.mla_context_block.roofline(labels, prompt)
    assert largest(ops.wide_mla_context.roofline(labels, prompt)) < largest(with_down)


def test_the_default_share_of_processors_is_the_tables() -> None:
    frame = PerfStore().table("h100_sxm", "sglang", "all_to_all")
    assert frame is not None
    assert SMS in frame["sms"].to_list()


def test_a_leaf_is_left_only_by_groups_larger_than_it(tmp_path: Path) -> None:
    """Within a leaf the spine plays no part; beyond it the leaf's links count as well."""

    def dispatch_s(nic: str, spine: str, size: int) -> float:
        path = tmp_path / f"leaf_{nic}_{spine}.yaml".replace("/", "")
        path.write_text(
            f"extends: h200_sxm\nname: leaf_{nic}_{spine}\n".replace("/", "") + "links:\n"
            f"  - {{name: nic, span: 64, bandwidth: {nic}}}\n"
            f"  - {{name: spine, span: unlimited, bandwidth: {spine}, latency: 6us}}\n"
        )
        exchange = Operators(load_device(path), "sglang", STORE).exchange
        tokens = Tokens(np.array([[4096.0]]), 7168, 8, 256, "fp8", np.array([True]))
        group = Group(np.array([[float(size)]]), np.array([[1.0]]))
        return float(exchange.dispatch(group, tokens).seconds[0, 0])

    assert dispatch_s("5GB/s", "50GB/s", 64) > 5 * dispatch_s("50GB/s", "50GB/s", 64)
    inside = [dispatch_s("50GB/s", spine, 64) for spine in ("50GB/s", "5GB/s")]
    assert inside[0] == pytest.approx(inside[1])
    across = [dispatch_s("50GB/s", spine, 128) for spine in ("50GB/s", "5GB/s")]
    assert across[1] > 1.3 * across[0]


@pytest.mark.parametrize("name", ["b300_sxm", "h200_sxm", "l40s"])
@pytest.mark.parametrize("engine", ["sglang", "trtllm"])
def test_a_variant_that_changes_nothing_is_its_origin(
    name: str, engine: str, tmp_path: Path
) -> None:
    path = tmp_path / "copy.yaml"
    path.write_text(f"extends: {name}\nname: copy_of_{name}\n")
    layout = parse_layout("attn:TP1DP8 ffn:TP1EP8 PP1")
    works = StepWork.of(
        decode_sequences=[0, 32],
        context_tokens=2048,
        prefill_sequences=[1, 0],
        prefill_tokens=[2048, 0],
    )
    times = []
    for device in (load_device(name), load_device(path)):
        model = load_model("Qwen/Qwen3-30B-A3B")
        step = StepModel(
            model,
            device,
            engine_profile(engine),
            Precision(*("bf16",) * 4),
            Operators(device, engine, STORE),
        )
        times.append(step.time(layout, works).pace_s)
    np.testing.assert_allclose(times[0], times[1], rtol=1e-12)
