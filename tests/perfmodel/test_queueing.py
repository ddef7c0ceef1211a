"""Waiting times against exact results for M/M/1, M/M/c and M/D/1."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.queueing import exceedance, mean_wait_s, wait_probability

servers = st.integers(1, 200)
loads = st.floats(0.01, 0.995)


def erlang_c(count: int, utilization: float) -> float:
    """Exact probability of waiting in M/M/c."""
    offered = count * utilization
    busy = offered**count / factorial(count) / (1 - utilization)
    return busy / (sum(offered**k / factorial(k) for k in range(count)) + busy)


def wait(count: float, utilization: float, service_s: float = 1.0, **cv2: float) -> float:
    return float(mean_wait_s(np.array(float(count)), np.array(utilization), service_s, **cv2))


@given(st.floats(0.0, 0.999), st.floats(1e-3, 10.0))
def test_one_exponential_server_is_exact(load: float, service_s: float) -> None:
    exact = load / (1 - load) * service_s
    assert wait(1, load, service_s, service_cv2=1.0) == pytest.approx(exact)
    assert float(wait_probability(np.array(1.0), np.array(load))) == pytest.approx(load)


@given(st.floats(0.0, 0.999))
def test_one_constant_server_waits_half(load: float) -> None:
    assert wait(1, load) == pytest.approx(load / (1 - load) / 2)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 30, 100])
@pytest.mark.parametrize("load", [0.5, 0.7, 0.9, 0.98])
def test_many_exponential_servers_are_near_erlang(count: int, load: float) -> None:
    exact = erlang_c(count, load) / (count * (1 - load))
    approximate = wait(count, load, service_cv2=1.0)
    # Sakasegawa's formula: a few percent of a service time off, little where queues are long.
    assert approximate == pytest.approx(exact, rel=0, abs=0.035)
    assert load < 0.98 or approximate == pytest.approx(exact, rel=0.05)
    probability = float(wait_probability(np.array(float(count)), np.array(load)))
    assert probability == pytest.approx(erlang_c(count, load), abs=0.06)


@pytest.mark.parametrize("count", [1, 2, 5, 20, 100])
def test_heavy_traffic_waits_as_one_fast_server(count: int) -> None:
    assert wait(count, 0.999, service_cv2=1.0) == pytest.approx(1 / count / 0.001, rel=0.03)


@given(servers, loads, loads)
def test_more_load_waits_longer(count: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert wait(count, low) <= wait(count, high) * (1 + 1e-12)


@given(servers, servers, loads)
def test_more_servers_at_one_utilization_wait_less(a: int, b: int, load: float) -> None:
    few, many = sorted((a, b))
    assert wait(many, load) <= wait(few, load) * (1 + 1e-12)
    probability = wait_probability(np.array([few, many], dtype=float), np.array([load, load]))
    assert probability[1] <= probability[0] * (1 + 1e-12)


@given(servers, loads, st.floats(0, 4), st.floats(0, 4), st.floats(1e-3, 10))
def test_the_wait_scales_with_variability_and_service(
    count: int, load: float, arrival: float, service: float, service_s: float
) -> None:
    unit = wait(count, load, service_cv2=1.0)
    scaled = wait(count, load, service_s, arrival_cv2=arrival, service_cv2=service)
    assert scaled == pytest.approx(unit * service_s * (arrival + service) / 2, rel=1e-9)


@pytest.mark.parametrize("load", [1.0, 1.5, 10.0])
def test_overload_waits_forever(load: float) -> None:
    assert wait(4, load) == np.inf
    assert float(wait_probability(np.array(4.0), np.array(load))) == 1.0


def test_no_load_does_not_wait() -> None:
    assert wait(4, 0.0) == 0.0


def test_exceedance_has_the_mean_it_was_given() -> None:
    probability, mean = np.array(0.6), np.array(0.25)
    at = np.linspace(0, 20, 400_001)
    tail = exceedance(at, probability, mean)
    assert np.trapezoid(tail, at) == pytest.approx(0.25, rel=1e-4)
    assert tail[0] == pytest.approx(0.6)


def test_exceedance_is_exact_for_one_exponential_server() -> None:
    load, at = 0.8, np.array([0.0, 1.0, 5.0, 20.0])
    mean = np.array(load / (1 - load))
    exact = load * np.exp(-(1 - load) * at)
    assert exceedance(at, np.array(load), mean) == pytest.approx(exact)


@given(st.floats(0, 1), st.floats(0, 100), st.floats(-5, 500), st.floats(-5, 500))
def test_exceedance_falls_from_one(probability: float, mean: float, a: float, b: float) -> None:
    low, high = sorted((a, b))
    tail = exceedance(np.array([low, high]), np.array(probability), np.array(mean))
    assert np.all((tail >= 0) & (tail <= 1))
    assert tail[1] <= tail[0]
    assert float(exceedance(np.array(-1.0), np.array(probability), np.array(mean))) == 1.0


@given(st.floats(0.0, 1.0), st.floats(1e-4, 2.0), st.floats(1e-3, 1.0), st.floats(0.0, 1.0))
def test_exceedance_with_a_running_step(
    probability: float, mean: float, step: float, running: float
) -> None:
    random = np.random.default_rng(7)
    draws = 40_000
    queue = random.exponential(mean / max(probability, 1e-9), draws)
    waits = queue * (random.random(draws) < probability)
    waits += step * random.random(draws) * (random.random(draws) < running)
    for at in (0.0, 0.3 * step, step, step + mean, 3 * step + 2 * mean):
        exact = exceedance(
            np.array(at), np.array(probability), np.array(mean), np.array(step), np.array(running)
        )
        assert float(exact) == pytest.approx((waits > at).mean(), abs=0.015)


def test_the_rest_of_a_step_ends_with_it() -> None:
    idle = exceedance(np.array([0.0, 0.5, 1.0]), np.zeros(3), np.zeros(3), 1.0, 1.0)
    assert idle == pytest.approx([1.0, 0.5, 0.0])
    overloaded = exceedance(np.array([5.0]), np.ones(1), np.full(1, np.inf), 1.0, 1.0)
    assert overloaded == pytest.approx([1.0])
