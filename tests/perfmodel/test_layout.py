"""Layouts: their spelling, and what follows from the degrees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import InputError
from perfmodel.layout import DEGREES, Layouts, format_layout, parse_layout

power = st.integers(0, 3).map(lambda e: 2**e)


@st.composite
def layouts(draw: st.DrawFn) -> Layouts:
    """One layout whose two modules cover the same devices."""
    tp_a, cp_a, dp_a = draw(power), draw(power), draw(power)
    devices = tp_a * cp_a * dp_a
    tp_f = draw(st.sampled_from([d for d in (1, 2, 4, 8) if devices % d == 0]))
    ep_f = draw(st.sampled_from([d for d in (1, 2, 4, 8) if devices // tp_f % d == 0]))
    return Layouts.from_rows([[draw(power), tp_a, cp_a, dp_a, tp_f, ep_f, devices // tp_f // ep_f]])


def degrees(layout: Layouts) -> list[int]:
    return layout.rows()[0].tolist()


@given(layouts())
def test_a_layout_reads_back(layout: Layouts) -> None:
    assert degrees(parse_layout(format_layout(layout))) == degrees(layout)


@given(layouts())
def test_both_modules_cover_the_world(layout: Layouts) -> None:
    assert layout.world[0] == layout.pp[0] * layout.tp_f[0] * layout.ep_f[0] * layout.dp_f[0]
    assert layout.stage_world[0] * layout.pp[0] == layout.world[0]


def test_the_reference_example() -> None:
    text = "attn:TP2CP2DP2 ffn:TP2EP4 PP1"
    layout = parse_layout(text)
    assert degrees(layout) == [1, 2, 2, 2, 2, 4, 1]
    assert layout.world[0] == 8
    assert format_layout(layout) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("attn:TP8 ffn:TP8", [1, 8, 1, 1, 8, 1, 1]),
        ("attn:tp8 ffn:tp8 pp2", [2, 8, 1, 1, 8, 1, 1]),
        ("attn:TP1DP8 ffn:EP8 PP4", [4, 1, 1, 8, 1, 8, 1]),
        ("attn:TP4DP2 ffn:TP4", [1, 4, 1, 2, 4, 1, 2]),
        ("  attn:CP4  ffn:TP2DP2 PP1 ", [1, 1, 4, 1, 2, 1, 2]),
    ],
)
def test_looser_spellings(text: str, expected: list[int]) -> None:
    assert degrees(parse_layout(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "TP8",
        "attn:TP8",
        "ffn:TP8 attn:TP8",
        "attn:TP8 ffn:TP4EP4",
        "attn:TP8 ffn:TP8DP2",
        "attn:TP4 ffn:TP3",
        "attn:TP8EP2 ffn:TP16",
        "attn:TP8 ffn:CP8",
        "attn:TP0 ffn:TP0",
        "attn:TP8 ffn:TP8 PP0",
        "attn:TPx ffn:TP8",
        "attn:TP-2 ffn:TP2",
        "attn:TP2TP4 ffn:TP4",
        "attn:8 ffn:8",
        "attn:TP8 ffn:TP8 PP1 DP2",
        "attn:TP99999999999999999999 ffn:TP99999999999999999999",
    ],
)
def test_a_bad_spelling_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(InputError, match="layout ") as caught:
        parse_layout(text)
    assert repr(text) in str(caught.value)


def test_mismatched_modules_are_counted() -> None:
    with pytest.raises(InputError, match="attention uses 8 devices per stage, the FFN 16"):
        parse_layout("attn:TP8 ffn:TP4EP4")


def test_rows_and_indexing_keep_the_degrees() -> None:
    rows = np.arange(1, 22).reshape(3, len(DEGREES))
    many = Layouts.from_rows(rows)
    assert len(many) == 3
    assert np.array_equal(many.rows(), rows)
    assert np.array_equal(many[np.array([2, 0])].rows(), rows[[2, 0]])
    assert len(Layouts.from_rows([])) == 0


def test_dense_parts_of_an_expert_model_are_split_only_where_tokens_stay() -> None:
    aligned = parse_layout("attn:TP8 ffn:TP2EP4")
    dispatched = parse_layout("attn:TP2DP4 ffn:TP2EP4")
    assert (bool(aligned.aligned[0]), int(aligned.dense_tp[0])) == (True, 8)
    assert (bool(dispatched.aligned[0]), int(dispatched.dense_tp[0])) == (False, 1)
