"""Deployments played against what no hardware can beat, and against each other."""

from __future__ import annotations

import numpy as np
import pytest

from perfmodel.architecture import load_model
from perfmodel.closed_loop import Load
from perfmodel.correction import NEUTRAL, Correction
from perfmodel.database import PerfStore
from perfmodel.deployments import Degrees, Deployment
from perfmodel.errors import InputError
from perfmodel.hardware import load_device
from perfmodel.layout import format_layout
from perfmodel.serving import Served, Server

LLAMA, LLAMA_70B = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"
QWEN, DEEPSEEK = "Qwen/Qwen3-235B-A22B-FP8", "deepseek-ai/DeepSeek-R1"
ONE = Degrees(1, 1, 1, 0, 0, 0)


@pytest.fixture(scope="module")
def server() -> Server:
    return Server(PerfStore())


def serve(
    server: Server,
    model: str = LLAMA,
    device: str = "h100_sxm",
    engine: str = "vllm",
    fmt: str = "bf16",
    *,
    load: Load,
    **pools: Degrees,
) -> Served:
    return server.serve(Deployment("x", model, device, engine, fmt, fmt, load, pools, None))


def prompt_bound_s(model: str, device: str, peak: str, tokens: float, devices: int) -> float:
    """Two operations per active weight and token, at the peak (embeddings and head apart)."""
    known = load_model(model)
    weights = known.active_parameters() - 2 * known.vocab * known.hidden
    return 2.0 * weights * tokens / load_device(device).peak_flops_per_s[peak] / devices


@pytest.mark.parametrize(("isl", "clients"), [(32, 256), (64, 512), (256, 256), (2048, 16)])
def test_bursts_of_prompts_are_no_faster_than_their_products(
    server: Server, isl: int, clients: int
) -> None:
    load = Load(clients, isl, 2, waves=1)
    seen = serve(server, load=load, agg=ONE).play(NEUTRAL)
    # On average half of the burst comes before a request's own prompt.
    assert seen.ttft_s >= 0.5 * prompt_bound_s(LLAMA, "h100_sxm", "bf16", isl * clients, 1)


@pytest.mark.parametrize("isl", [8192, 16384, 65536])
def test_long_prompts_cost_alike_in_a_pool_of_their_own(server: Server, isl: int) -> None:
    four = Degrees(4, 1, 1, 0, 0, 1)
    load = Load(1, isl, 10)
    apart = serve(
        server, LLAMA_70B, engine="trtllm", fmt="fp8", load=load, prefill=four, decode=four
    )
    mixed = serve(server, LLAMA_70B, engine="trtllm", fmt="fp8", load=load, agg=four)
    times = [served.play(NEUTRAL).ttft_s for served in (apart, mixed)]
    bound = prompt_bound_s(LLAMA_70B, "h100_sxm", "fp8", isl, 4)
    assert min(times) >= bound
    assert times[0] == pytest.approx(times[1], rel=0.3)


def test_one_more_token_than_a_step_holds_costs_a_step_of_one_token(server: Server) -> None:
    whole, more = (
        serve(server, load=Load(1, isl, 2), agg=ONE).play(NEUTRAL).ttft_s for isl in (8192, 8193)
    )
    assert whole < more < whole + 0.02


def test_lengths_that_differ_a_little_change_little(server: Server) -> None:
    ranks = Degrees(1, 1, 8, 1, 8, 0)
    tpot = [
        serve(
            server,
            DEEPSEEK,
            "h200_sxm",
            fmt="fp8_block",
            load=Load(64, 4000, 200, spread),
            agg=ranks,
        )
        .play(NEUTRAL)
        .tpot_s
        for spread in (0.0, 0.1)
    ]
    # A prompt alone on one rank holds the others up, at its own experts' cost only.
    assert tpot[0] <= tpot[1] < 2.0 * tpot[0]


def test_a_pipeline_works_on_several_micro_batches_at_once(server: Server) -> None:
    def requests_per_s(degrees: Degrees) -> float:
        load = Load(256, 1000, 200, waves=4)
        served = serve(server, LLAMA_70B, "h200_sxm", fmt="fp8", load=load, agg=degrees)
        seen = served.play(NEUTRAL)
        return 256 / (seen.ttft_s + 199 * seen.tpot_s)

    flat = requests_per_s(Degrees(8, 1, 1, 0, 0, 0))
    deep = requests_per_s(Degrees(2, 4, 1, 0, 0, 0))
    assert 0.8 * flat < deep < 2.5 * flat
    # One request alone gains nothing from stages, and waits for no other.
    alone = [
        serve(server, LLAMA_70B, "h200_sxm", fmt="fp8", load=Load(1, 1000, 50), agg=d).play(NEUTRAL)
        for d in (Degrees(8, 1, 1, 0, 0, 0), Degrees(2, 4, 1, 0, 0, 0))
    ]
    assert alone[1].tpot_s > alone[0].tpot_s


def test_clients_that_wait_for_the_engine_do_not_load_it(server: Server) -> None:
    """Little's law by what the clients see: each has one request at a time."""
    served = serve(server, load=Load(1, 512, 10), agg=ONE)
    late = Correction(request_overhead_s=0.5)
    seen, bare = served.play(late), served.play(NEUTRAL)
    assert seen.ttft_s == pytest.approx(bare.ttft_s + 0.5, rel=1e-6)
    many = serve(server, load=Load(16, 512, 10), agg=ONE)
    # With half a second between a client's requests the device is mostly idle.
    assert many.play(late).tpot_s < many.play(NEUTRAL).tpot_s


def layout(server: Server, model: str, fmt: str, **pools: Degrees) -> str:
    device = "h200_sxm"
    served = serve(server, model, device, fmt=fmt, load=Load(8, 500, 50), **pools)
    return format_layout(served.layouts["agg"])


def test_a_row_of_ones_own_is_taken_at_its_word(server: Server) -> None:
    own = {
        (16, 1, 1, 4, 4, 0): "attn:TP16 ffn:TP4EP4 PP1",
        (8, 1, 1, 0, 0, 0): "attn:TP8 ffn:TP8 PP1",
    }
    own |= {(4, 1, 4, 4, 4, 0): "attn:TP4DP4 ffn:TP4EP4 PP1"}
    own |= {(2, 1, 4, 0, 0, 0): "attn:TP2DP4 ffn:TP1EP8 PP1"}
    for degrees, expected in own.items():
        assert layout(server, QWEN, "fp8_block", agg=Degrees(*degrees)) == expected


@pytest.mark.parametrize(
    ("model", "degrees", "message"),
    [
        (QWEN, (8, 1, 8, 1, 8, 0), "moe_tp_size 1 x moe_ep_size 8 are 8 devices"),
        (LLAMA, (3, 1, 1, 0, 0, 0), "do not divide by 3"),
        (LLAMA_70B, (1, 1, 1, 0, 0, 0), "does not fit on attn:TP1 ffn:TP1 PP1"),
    ],
)
def test_a_row_that_no_engine_runs_is_refused(
    server: Server, model: str, degrees: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        layout(server, model, "fp8_block" if model == QWEN else "bf16", agg=Degrees(*degrees))


def test_replicas_of_a_dense_model_share_its_clients(server: Server) -> None:
    load = Load(64, 1000, 100)
    four = serve(server, load=load, agg=Degrees(1, 1, 4, 0, 0, 0)).play(NEUTRAL)
    one = serve(server, load=Load(16, 1000, 100), agg=ONE).play(NEUTRAL)
    assert np.isclose(four.tpot_s, one.tpot_s)
