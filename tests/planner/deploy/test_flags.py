"""What is written against what engines' own parsers take (recorded by experiments/engine_flags)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from deployed import ENGINE_NAMES, EXPERTS, layouts_of, pool_of, rollout_of, rollouts
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.deploy import ENGINES
from planner.deploy.engine import Launch
from planner.deploy.flags import read_words, words
from planner.deploy.intent import Drafting, layout_row
from spaces.expressible import Place

TABLES = {
    name: json.loads((Path(__file__).parent / f"flags_{name}.json").read_text())
    for name in ENGINE_NAMES
}
SPAN = ("moe_config.load_balancer", "cuda_graph_config")
"""Fields recorded as a whole."""


def flattened(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        inner = f"{path}.{name}" if path else name
        if isinstance(value, Mapping) and inner != "moe_config.load_balancer":
            yield from flattened(value, inner)
        else:
            yield inner, value


def written(launch: Launch) -> Iterator[tuple[str, Any]]:
    for flags in (launch.flags, launch.multi_host, launch.worker):
        for name, value in flags.items():
            if value is not None and value is not False:
                yield name, value
    if launch.config is not None:
        yield from flattened(launch.config[1])


def fits(kind: str, value: Any) -> bool:
    if isinstance(value, str) and value.startswith("@"):  # known where it starts
        return kind in ("int", "str")
    return {
        "flag": value is True,
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "str": isinstance(value, str | dict | float),
        "dict": isinstance(value, dict),
        "null": value is None,
    }[kind]


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_engines_know_every_flag_and_its_kind_of_value(engine: str, data: st.DataObject) -> None:
    rollout = data.draw(rollouts(engine))
    table = TABLES[engine]["flags"]
    for pool in rollout.pools:
        for name, value in written(ENGINES[engine].launch(rollout, pool)):
            assert name in table, name
            assert fits(table[name]["kind"], value), (name, value)
            if "choices" in table[name]:
                assert str(value) in table[name]["choices"], (name, value)


@pytest.mark.parametrize("engine", ENGINE_NAMES)
def test_the_recorded_table_is_of_the_version_written_for(engine: str) -> None:
    target = ENGINES[engine]
    assert TABLES[engine]["version"] == target.version
    assert set(TABLES[engine]["flags"]) == set(target.known_flags)
    assert target.version in target.image


@given(
    st.dictionaries(
        st.from_regex(r"--[a-z][a-z-]{0,10}", fullmatch=True),
        st.one_of(
            st.just(True),
            st.integers(0, 10**6),
            st.floats(0, 1).map(lambda x: round(x, 3)),
            st.from_regex(r"[a-z_/:]{1,10}", fullmatch=True).filter(
                lambda text: text not in ("true", "false", "null")
            ),
            st.dictionaries(st.text("abc", min_size=1), st.integers()),
        ),
    )
)
def test_words_are_read_back(flags: dict[str, Any]) -> None:
    assert read_words(words(flags)) == flags


def gap_of(engine: str, **changes: Any) -> list[str]:
    pool = pool_of(layout_row(dp_a=4, ep_f=4), **changes)
    rollout = rollout_of(engine, pool)
    return [gap.what for gap in ENGINES[engine].gaps(rollout, pool)]


def test_two_half_batches() -> None:
    assert gap_of("vllm", two_batch_overlap=True) == []
    assert gap_of("sglang", two_batch_overlap=True) == []
    assert "two half batches" in gap_of("trtllm", two_batch_overlap=True)[0]
    drafting = Drafting(2, None, 1)
    (gap,) = gap_of("vllm", two_batch_overlap=True, drafting=drafting)
    assert "beside speculation" in gap
    for engine, flag in (("vllm", "--enable-dbo"), ("sglang", "--enable-two-batch-overlap")):
        pool = pool_of(layout_row(dp_a=4, ep_f=4), two_batch_overlap=True)
        assert ENGINES[engine].launch(rollout_of(engine, pool), pool).flags[flag] is True


def test_sequence_parallelism_is_none_of_theirs() -> None:
    for engine in ENGINE_NAMES:
        (gap,) = gap_of(engine, sequence_parallel=True)
        assert "sequence parallelism" in gap


def test_encoder_pools_and_layerwise_transfer() -> None:
    one = layouts_of("vllm", EXPERTS, Place("decode"))[:1]
    pools = [pool_of(one, role=role) for role in ("prefill", "decode")]
    for engine in ENGINE_NAMES:
        rollout = rollout_of(engine, *pools, encoder_pool=True, kv_overlap="layerwise")
        gaps = [g.what for pool in pools for g in ENGINES[engine].gaps(rollout, pool)]
        assert "a pool of its own that encodes images" in gaps
        assert ("KV caches sent layer by layer" in gaps) == (engine != "trtllm")


def test_a_checkpoint_of_another_format_is_a_condition() -> None:
    from perfmodel.precision import Precision

    for checkpoint, formats, engine, said in (
        ("bf16", "fp8", "vllm", False),  # quantized as it is loaded
        ("bf16", "fp8", "trtllm", True),
        ("bf16", "nvfp4", "vllm", True),
        ("bf16", "bf16", "sglang", False),
        ("fp8_block", "fp8_block", "trtllm", False),
        ("fp8_block", "fp8_weight_only", "trtllm", False),  # the same, on an A100
        ("fp8_block", "bf16", "trtllm", True),
        ("mxfp4", "mxfp4_mxfp8", "trtllm", False),
    ):
        pool = pool_of(layout_row(), precision=Precision(formats, formats, formats))
        held = dict.fromkeys(("attention", "experts"), checkpoint)
        rollout = rollout_of(engine, pool, checkpoint=held)
        conditions = ENGINES[engine].conditions(rollout, pool)
        assert any("serve a checkpoint" in line for line in conditions) == said
