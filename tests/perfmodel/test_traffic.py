"""Length distributions, and the lengths of sequences in flight against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import InputError
from perfmodel.traffic import NORMAL_99, Lengths, Traffic

lengths = st.lists(
    st.tuples(st.integers(1, 5000), st.floats(0.05, 1.0)), min_size=1, max_size=6
).map(lambda pairs: Lengths.from_histogram(*zip(*pairs, strict=True)))

MIXED = Traffic(
    Lengths.from_histogram([100, 900, 3000], [5, 3, 2]),
    Lengths.from_histogram([10, 200, 1000], [6, 3, 1]),
)


def in_flight(traffic: Traffic, count: int = 400_000) -> tuple[np.ndarray, np.ndarray]:
    """Cache lengths now and at the end, of sequences found in flight at random instants.

    A request is met with probability proportional to the iterations it stays, and then at
    any point of its output.
    """
    rng = np.random.default_rng(7)
    inputs = rng.choice(traffic.inputs.tokens, count, p=traffic.inputs.weights)
    outputs = rng.choice(traffic.outputs.tokens, count, p=traffic.outputs.weights)
    met = rng.choice(count, count, p=outputs / outputs.sum())
    progress = rng.random(count) * outputs[met]
    return inputs[met] + progress, inputs[met] + outputs[met]


def served_in_slots(traffic: Traffic, slots: int = 200, steps: int = 20_000) -> np.ndarray:
    """Mean cache length per step of continuously refilled slots, token by token."""
    rng = np.random.default_rng(11)
    inputs = rng.choice(traffic.inputs.tokens, slots, p=traffic.inputs.weights)
    left = rng.choice(traffic.outputs.tokens, slots, p=traffic.outputs.weights)
    length, means = inputs.copy(), np.empty(steps)
    for step in range(steps):
        means[step] = length.mean()
        length += 1
        left -= 1
        done = np.flatnonzero(left <= 0)
        length[done] = rng.choice(traffic.inputs.tokens, len(done), p=traffic.inputs.weights)
        left[done] = rng.choice(traffic.outputs.tokens, len(done), p=traffic.outputs.weights)
    return means[steps // 4 :]


def test_context_moments_match_sequences_found_in_flight() -> None:
    now, _ = in_flight(MIXED)
    assert MIXED.context_mean == pytest.approx(now.mean(), rel=0.01)
    assert MIXED.context_std == pytest.approx(now.std(), rel=0.01)


def test_peak_moments_match_sequences_found_in_flight() -> None:
    _, final = in_flight(MIXED)
    assert MIXED.peak_mean == pytest.approx(final.mean(), rel=0.01)
    assert MIXED.peak_std == pytest.approx(final.std(), rel=0.01)


def test_context_mean_matches_refilled_slots() -> None:
    assert served_in_slots(MIXED).mean() == pytest.approx(MIXED.context_mean, rel=0.02)


def test_batches_rarely_exceed_their_peak_tokens() -> None:
    _, final = in_flight(MIXED, 300_000)
    means = final.reshape(-1, 30).mean(axis=1)
    exceeded = (means > MIXED.peak_tokens(np.array([30.0]))[0]).mean()
    assert 0.002 < exceeded < 0.03


def test_fixed_lengths_have_no_spread_but_progress() -> None:
    traffic = Traffic(Lengths.fixed(1000), Lengths.fixed(300))
    assert traffic.context_mean == 1150
    assert traffic.context_std == pytest.approx(300 / np.sqrt(12))
    assert traffic.peak_mean == 1300
    assert traffic.peak_std == pytest.approx(0, abs=1e-3)
    assert traffic.peak_tokens(np.array([1.0, 64.0])) == pytest.approx(1300)


@given(lengths, lengths)
def test_peak_tokens_fall_to_the_mean_and_never_pass_the_longest(
    inputs: Lengths, outputs: Lengths
) -> None:
    traffic = Traffic(inputs, outputs)
    counts = np.array([1.0, 4.0, 64.0, 1024.0, 1e9])
    peaks = traffic.peak_tokens(counts)
    assert np.all(np.diff(peaks) <= 1e-6)
    assert peaks[-1] == pytest.approx(traffic.peak_mean, rel=1e-3)
    assert peaks[0] <= inputs.maximum + outputs.maximum
    assert traffic.peak_mean <= inputs.maximum + outputs.maximum + 1e-6


@given(lengths, lengths)
def test_in_flight_contexts_lie_between_prompt_and_final_length(
    inputs: Lengths, outputs: Lengths
) -> None:
    traffic = Traffic(inputs, outputs)
    assert inputs.mean <= traffic.context_mean <= traffic.peak_mean
    # Longer outputs stay longer: at least half of the plain mean is written.
    assert traffic.context_mean >= inputs.mean + outputs.mean / 2 - 1e-9


@given(lengths, st.floats(0.0, 0.999))
def test_cached_and_new_tokens_make_up_the_prompt(inputs: Lengths, hit: float) -> None:
    traffic = Traffic(inputs, Lengths.fixed(10), hit)
    assert traffic.new_tokens + traffic.cached_tokens == pytest.approx(np.array(inputs.tokens))
    assert np.all(traffic.new_tokens >= 1)
    assert np.all(traffic.cached_tokens >= -1e-9)


def test_a_whole_cached_prompt_still_computes_a_token() -> None:
    traffic = Traffic(Lengths.fixed(1000), Lengths.fixed(10), prefix_hit=1.0)
    assert traffic.mean_new_tokens == 1.0
    assert traffic.context_mean == 1005


@given(st.lists(st.tuples(st.integers(1, 9000), st.floats(0.01, 9.0)), min_size=1, max_size=20))
def test_a_histogram_keeps_its_moments(pairs: list[tuple[int, float]]) -> None:
    tokens, weights = zip(*pairs, strict=True)
    value = Lengths.from_histogram(tokens, weights)
    assert sum(value.weights) == pytest.approx(1.0)
    assert list(value.tokens) == sorted(value.tokens)
    assert value.mean == pytest.approx(np.average(tokens, weights=weights))
    assert value.mean_square == pytest.approx(np.average(np.square(tokens), weights=weights))
    assert value.maximum == max(tokens)


def test_percentiles_of_a_lognormal_give_back_its_mean() -> None:
    mu, sigma = np.log(800.0), 0.6
    drawn = np.exp(np.random.default_rng(3).normal(mu, sigma, 400_000))
    given_points = {p: float(np.percentile(drawn, p)) for p in (5, 25, 50, 75, 90, 99)}
    value = Lengths.from_percentiles(given_points)
    assert value.mean == pytest.approx(drawn.mean(), rel=0.03)
    assert np.sqrt(value.mean_square - value.mean**2) == pytest.approx(drawn.std(), rel=0.15)


@given(st.lists(st.integers(1, 50_000), min_size=2, max_size=5))
def test_percentiles_bound_the_representatives(tokens: list[int]) -> None:
    points = dict(zip((10.0, 50.0, 75.0, 90.0, 99.0), sorted(tokens), strict=False))
    value = Lengths.from_percentiles(points)
    assert sum(value.weights) == pytest.approx(1.0)
    assert np.all(np.diff(value.tokens) >= -1e-6)
    assert min(points.values()) / 2 - 1e-6 <= value.tokens[0]
    assert value.maximum <= 2 * max(points.values()) + 1e-6


def test_the_share_below_a_percentile_is_kept() -> None:
    value = Lengths.from_percentiles({50: 800, 90: 2000, 99: 4000})
    tokens, weights = np.array(value.tokens), np.array(value.weights)
    assert weights[tokens < 800].sum() == pytest.approx(0.5)
    assert weights[tokens < 2000].sum() == pytest.approx(0.9)


def test_one_percentile_is_a_fixed_length() -> None:
    assert Lengths.from_percentiles({50: 800}) == Lengths.fixed(800)


@pytest.mark.parametrize(
    ("percentiles", "problem"),
    [
        ({}, "at least one percentile"),
        ({101: 5}, "between 0 and 100"),
        ({50: 800, 90: 700}, "do not decrease"),
        ({50: 0}, "at least one token"),
    ],
)
def test_bad_percentiles_are_refused(percentiles: dict[float, float], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Lengths.from_percentiles(percentiles)


@pytest.mark.parametrize(
    ("tokens", "weights"),
    [([], []), ([1], []), ([0], [1]), ([5], [-1]), ([5, 6], [0, 0])],
)
def test_bad_histograms_are_refused(tokens: list[float], weights: list[float]) -> None:
    with pytest.raises(InputError, match="expected"):
        Lengths.from_histogram(tokens, weights)


def test_the_normal_percentile() -> None:
    drawn = np.random.default_rng(5).normal(size=1_000_000)
    assert (drawn < NORMAL_99).mean() == pytest.approx(0.99, abs=5e-4)
