"""Minimal conflicts, beside brute force over the same constraints."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from perfmodel.layout import Layouts, parse_layout
from spaces.conflict import conflict
from spaces.constraints import LayoutConstraint, one_of, world_constraint
from spaces.enumeration import all_layouts, enumerate_layouts

LAYOUTS = all_layouts(8)


def at_least(name: str, value: int) -> LayoutConstraint:
    return LayoutConstraint(f"{name} >= {value}", (name,), lambda d: d[name] >= value)


def at_most(name: str, value: int) -> LayoutConstraint:
    return LayoutConstraint(f"{name} <= {value}", (name,), lambda d: d[name] <= value)


def satisfiable(constraints: list[LayoutConstraint]) -> bool:
    kept = np.ones(len(LAYOUTS), dtype=bool)
    for constraint in constraints:
        kept &= constraint.of(LAYOUTS)
    return bool(kept.any())


def test_what_is_satisfiable_has_no_conflict() -> None:
    assert conflict([at_least("tp_a", 4), world_constraint(4)], 8) == []
    assert conflict([], 8) == []


def test_a_constraint_that_nothing_satisfies_is_one_alone() -> None:
    never = at_least("tp_a", 16)
    assert conflict([at_most("pp", 1), never, world_constraint(2)], 8) == [never]


def test_only_what_is_needed_is_named() -> None:
    wide, few = at_least("tp_a", 8), world_constraint(4)
    others = [at_most("pp", 2), at_most("cp_a", 1), at_least("tp_f", 2)]
    assert conflict([others[0], wide, *others[1:], few], 8) == [wide, few]


def test_three_that_pairwise_agree() -> None:
    three = [at_least("tp_a", 4), at_least("pp", 2), world_constraint(4)]
    assert conflict(three, 8) == three
    for pair in combinations(three, 2):
        assert conflict(list(pair), 8) == []


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    st.lists(
        st.one_of(
            st.builds(
                at_least,
                st.sampled_from(["pp", "tp_a", "tp_f", "ep_f"]),
                st.sampled_from([2, 4, 8]),
            ),
            st.builds(at_most, st.sampled_from(["pp", "dp_a", "dp_f"]), st.sampled_from([1, 2])),
            st.builds(world_constraint, st.sampled_from([2, 4, 8])),
        ),
        max_size=6,
    )
)
def test_conflicts_are_minimal(constraints: list[LayoutConstraint]) -> None:
    found = conflict(constraints, 8)
    assert bool(found) != satisfiable(constraints)
    if found:
        assert not satisfiable(found)
        for one in found:
            assert satisfiable([other for other in found if other is not one])


def test_one_of_some_layouts() -> None:
    few = parse_layout("attn:TP8 ffn:TP8 PP1"), parse_layout("attn:TP2DP4 ffn:TP8 PP2")
    allowed = Layouts.from_rows(np.concatenate([layout.rows() for layout in few]))
    named = one_of(allowed, "these")
    everything = all_layouts(16)
    assert int(named.of(everything).sum()) == 2
    found = enumerate_layouts([named], 16)
    assert sorted(map(tuple, found.rows())) == sorted(map(tuple, allowed.rows()))
    small = world_constraint(4)
    assert [c.name for c in conflict([small, named], 16)] == [small.name, "these"]
    assert conflict([named], 16) == []
    assert [c.name for c in conflict([one_of(everything[:0], "none")], 16)] == ["none"]
