"""Routings are what their names say."""

import numpy as np
import pytest

from perfmodel.collect.routing import bounds, choices, whole

SHAPES = [(1, 2, 8), (3, 4, 32), (64, 8, 64), (500, 2, 16)]


@pytest.mark.parametrize("routing", ["balanced", "uniform", "power_law_1.01", "power_law_1.2"])
@pytest.mark.parametrize(("tokens", "top_k", "experts"), SHAPES)
def test_a_token_visits_distinct_experts(
    routing: str, tokens: int, top_k: int, experts: int
) -> None:
    for draw in range(3):
        chosen = choices(routing, tokens, top_k, experts, 4, draw)
        assert chosen.shape == (tokens, top_k)
        assert chosen.min() >= 0
        assert chosen.max() < experts
        assert all(len(set(row)) == top_k for row in chosen.tolist())


@pytest.mark.parametrize(("tokens", "top_k", "experts"), SHAPES)
def test_balanced_loads_differ_by_one_over_experts_and_devices(
    tokens: int, top_k: int, experts: int
) -> None:
    chosen = choices("balanced", tokens, top_k, experts, 4)
    loads = np.bincount(chosen.reshape(-1), minlength=experts)
    assert np.ptp(loads) <= 1
    assert np.ptp(loads.reshape(4, -1).sum(axis=1)) <= 1


def test_uniform_tokens_reach_as_many_experts_as_expected() -> None:
    reached = [len(np.unique(choices("uniform", 8, 4, 32, draw=d))) for d in range(200)]
    assert np.mean(reached) == pytest.approx(32 * (1 - (1 - 4 / 32) ** 8), rel=0.02)


def test_a_power_law_is_skewed() -> None:
    loads = np.bincount(choices("power_law_1.01", 4096, 8, 64).reshape(-1), minlength=64)
    assert loads.max() > 3 * np.median(loads)
    assert loads.max() <= 4096


def test_the_first_device_has_the_most_to_do() -> None:
    loads = np.bincount(choices("power_law_1.2", 256, 4, 32, 8).reshape(-1), minlength=32)
    devices = loads.reshape(8, -1).sum(axis=1)
    assert devices[0] == devices.max()


def test_draws_differ_and_repeat() -> None:
    first, again, other = (choices("uniform", 64, 4, 32, draw=d) for d in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_unknown_routing() -> None:
    with pytest.raises(KeyError):
        choices("by_name", 4, 1, 8)


def test_bounds_are_the_rows_of_each_expert() -> None:
    assert bounds(np.array([[0, 2], [2, 3]]), 4) == [(0, 1), (1, 1), (1, 3), (3, 4)]
    assert bounds(np.array([[0, 2], [2, 3]]), 1) == [(0, 1)]


def test_whole_numbers_keep_the_total_and_the_limit() -> None:
    counts = whole(np.array([100.0, 1.0, 1.0, 1.0]), 20, 8)
    assert counts.tolist() == [8, 4, 4, 4]
    assert whole(np.array([1.0, 1.0, 1.0]), 4, 4).sum() == 4
