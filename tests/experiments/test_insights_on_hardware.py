"""What the experiments on claims 3 to 5 and on sanity compute themselves, against known answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.append(str(Path(__file__).parents[2] / "experiments"))
import heterogeneous_savings as savings
import insight3_heterogeneous as heterogeneous
import insight4_experts as experts
import sanity
import scale_up_premium as premium
from heterogeneous_cases import price_lists

TALK = heterogeneous.TALK


def test_the_reference_s_a_and_b_save_most_where_either_alone_costs_the_same() -> None:
    found = savings.curve(TALK, "GPU-A", "GPU-B")
    assert found is not None
    # 1 / 88 + 1 / 77 against 1 / 88 + 1 / 276.
    assert found.even == pytest.approx((1 / 88 + 1 / 77) / (1 / 88 + 1 / 276))
    assert found.most == pytest.approx(0.292, abs=5e-4)
    assert found.saving.max() <= found.most + 1e-9
    assert found.region.startswith("1.26")


def test_a_device_that_cannot_serve_a_phase_has_no_curve() -> None:
    assert savings.curve({"a": (1.0, 0.0), "b": (1.0, 1.0)}, "a", "b") is None


def test_slowing_a_device_moves_the_price_and_not_the_largest_saving() -> None:
    slow = savings.curve(savings.slowed(TALK, "GPU-B", 2.0), "GPU-A", "GPU-B")
    fast = savings.curve(TALK, "GPU-A", "GPU-B")
    assert slow is not None
    assert fast is not None
    assert slow.most == pytest.approx(fast.most)
    assert slow.even == pytest.approx(fast.even / 2.0)


def test_scarce_devices_from_none_to_enough() -> None:
    rows = savings.scarce_rows(TALK, heterogeneous.TALK_USD, "GPU-C", 67.0, 11)
    costs = [row["any mixture"] for row in rows]
    assert costs == sorted(costs, reverse=True)
    assert all(row["any mixture"] <= row["best pair"] + 1e-9 for row in rows[:-1])
    assert rows[0]["pair saves"] == pytest.approx(0.253, abs=5e-4)
    assert rows[-1]["any mixture"] == pytest.approx(rows[-1]["one type, USD/h"])


def test_price_lists_have_three_devices_and_no_relative_cost() -> None:
    lists = price_lists()
    assert lists["Oracle Cloud"]["mi300x"] == 6.0
    assert all(len(usd) >= 3 and not set(usd) & {"gpu_a", "gpu_b"} for usd in lists.values())
    assert lists["lowest of any"]["h100_sxm"] == min(
        usd["h100_sxm"] for usd in lists.values() if "h100_sxm" in usd
    )


def test_the_busiest_of_experts() -> None:
    assert experts.busiest(0.0) == pytest.approx(1.0)
    assert experts.busiest(1.0, 2) == pytest.approx(4 / 3)


def test_an_envelope_is_zero_until_something_is_fast_enough() -> None:
    frame = pl.DataFrame({"ttit_s": [0.05, 0.02, 0.1], "qps_per_device": [3.0, 1.0, 2.0]})
    curve = premium.envelope(frame)
    assert premium.at(curve, 15) is None
    assert [premium.at(curve, t) for t in (20, 49, 50, 200)] == [1.0, 1.0, 3.0, 3.0]


def test_the_loosest_target_at_which_a_premium_is_worth_its_price() -> None:
    ratio = np.where(premium.TTIT_S < 0.05, 1.5, 1.0)
    assert premium.pays_to(ratio, 2.0) is None
    worth = premium.pays_to(ratio, 1.2)
    assert worth is not None
    assert 45 < worth < 50


def test_the_operations_of_a_million_tokens() -> None:
    # The source: 77 s on 128 devices at 502 TFLOP/s each.
    found = sanity.prompt_flops("meta-llama/Llama-3.1-405B", 1_000_000)
    assert found == pytest.approx(77 * 128 * 502e12, rel=0.01)
