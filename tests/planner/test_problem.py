"""Names resolved into models, devices, prices and formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from perfmodel.errors import ConfigError
from perfmodel.hardware import SHIPPED, device_names, load_device
from perfmodel.precision import Precision
from planner.prices import PRICES, price_list
from planner.problem import Offer, Problem, resolve, supported
from planner.query import Query
from planner.sweep import Space

MakeQuery = Callable[..., Query]


def offer_of(make_query: MakeQuery, **device: object) -> Offer:
    return resolve(make_query(devices=[{"name": "h100_sxm", **device}])).offers[0]


def test_a_price_given_is_taken(make_query: MakeQuery) -> None:
    offer = offer_of(make_query, usd_per_device_hour=1.25)
    assert offer.usd_per_device_hour == 1.25
    assert offer.price_source == "query"


def test_a_price_not_given_comes_from_the_list_with_source_and_date(make_query: MakeQuery) -> None:
    offer = offer_of(make_query)
    entries = yaml.safe_load(PRICES.read_text())["prices"]
    (entry,) = [e for e in entries if e["device"] == "h100_sxm" and e.get("default")]
    assert offer.usd_per_device_hour == entry["usd_per_device_hour"]
    for part in (entry["kind"], entry["provider"], str(entry["date"])):
        assert part in offer.price_source


UNPRICED = {"b300_sxm", "gb300_nvl72"}
"""Too new for the list that prices the others: a query gives their price itself."""


def test_every_shipped_device_has_at_most_one_default_price() -> None:
    entries = yaml.safe_load(PRICES.read_text())["prices"]
    defaults = [entry["device"] for entry in entries if entry.get("default")]
    assert sorted(defaults) == sorted(set(device_names()) - UNPRICED)
    assert set(price_list()) == set(defaults)
    for entry in entries:
        assert entry["source"]
        assert entry["date"]
        assert entry["usd_per_device_hour"] > 0


def test_the_reference_devices_keep_their_relative_costs() -> None:
    costs = {name: price_list()[f"gpu_{name}"][0] for name in "abc"}
    assert costs == {"a": 2.0, "b": 3.0, "c": 1.0}
    assert all("relative" in price_list()[f"gpu_{name}"][1] for name in "abc")


def test_a_device_without_a_price_is_refused(make_query: MakeQuery, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text((SHIPPED / "h100_sxm.yaml").read_text().replace("h100_sxm", "mine"))
    with pytest.raises(ConfigError, match=r"devices\.0: no price known for mine: give usd_per"):
        resolve(make_query(devices=[str(mine)]))
    problem = resolve(make_query(devices=[{"name": "mine", "usd_per_device_hour": 2}]), [tmp_path])
    assert problem.offers[0].device.name == "mine"


def test_hosts(make_query: MakeQuery) -> None:
    assert offer_of(make_query).host_devices == 8
    assert offer_of(make_query, host_devices=4).host_devices == 4
    assert offer_of(make_query).most_devices is None
    assert offer_of(make_query, inventory=21).most_devices == 16
    assert offer_of(make_query, inventory=8).most_devices == 8


def test_an_inventory_below_one_host(make_query: MakeQuery) -> None:
    with pytest.raises(ConfigError, match=r"inventory of h100_sxm is 5, below one host of 8: 3"):
        offer_of(make_query, inventory=5)
    assert offer_of(make_query, inventory=5, host_devices=4).most_devices == 4


@pytest.mark.parametrize("again", ["H100_SXM", str(SHIPPED / "h100_sxm.yaml")])
def test_one_device_under_two_spellings(make_query: MakeQuery, again: str) -> None:
    with pytest.raises(ConfigError, match=r"devices\.1: h100_sxm is given twice"):
        resolve(make_query(devices=["h100_sxm", again]))


def test_unknown_names_come_with_the_nearest(make_query: MakeQuery) -> None:
    with pytest.raises(ConfigError, match=r"^devices\.1: unknown device 'h10'; did you mean h1"):
        resolve(make_query(devices=["a100_sxm", "h10"]))
    with pytest.raises(ConfigError, match=r"^model: unknown model 'qwen3-9b'\. Did you mean qwen3"):
        resolve(make_query(model="qwen3-9b"))


def test_a_context_longer_than_the_model_takes(make_query: MakeQuery) -> None:
    fits = {"input_tokens": 40860, "output_tokens": 100}
    assert resolve(make_query(workload=fits)).traffic.inputs.mean == 40860
    with pytest.raises(
        ConfigError, match=r"^workload: input and output reach 40,961 tokens; .*40,9"
    ):
        resolve(make_query(workload={**fits, "input_tokens": 40861}))
    with pytest.raises(ConfigError, match=r"accepts at most 40,960"):
        # The mean fits, the longest does not.
        resolve(make_query(workload={"input_tokens": {"p50": 1000, "p99": "45k"}}))


def precisions(problem_of: Callable[..., Problem], **changes: object) -> set[str]:
    return {str(p) for p in problem_of(**changes).precisions}


def test_native_formats(problem_of: Callable[..., Problem]) -> None:
    assert precisions(problem_of) == {"weights:bf16 kv:bf16"}
    (block,) = problem_of(model="Qwen/Qwen3-32B-FP8").precisions
    assert block.attention == block.ffn == block.experts == "fp8_block"
    (mixed,) = problem_of(model="openai/gpt-oss-120b").precisions
    assert (mixed.attention, mixed.experts) == ("bf16", "mxfp4")
    (fp4,) = problem_of(model="nvidia/DeepSeek-V3.1-NVFP4").precisions
    assert fp4.experts == "nvfp4"
    assert fp4.kv == "fp8"


def test_chosen_formats_are_all_searched_once(problem_of: Callable[..., Problem]) -> None:
    found = precisions(
        problem_of,
        precision={"weights": ["native", "bf16", "fp8"], "kv": ["native", "fp8"]},
    )
    assert found == {
        "weights:bf16 kv:bf16",
        "weights:bf16 kv:fp8",
        "weights:fp8 kv:bf16",
        "weights:fp8 kv:fp8",
    }


def test_bf16_activations_expand_quantized_weights(problem_of: Callable[..., Problem]) -> None:
    found = precisions(problem_of, precision={"weights": "fp8", "activations": ["auto", "bf16"]})
    assert found == {"weights:fp8 kv:bf16", "weights:fp8_weight_only kv:bf16"}


def test_formats_by_module(problem_of: Callable[..., Problem]) -> None:
    asked = {"experts": ["nvfp4", "native"], "attention": "fp8", "kv": "fp8", "lm_head": "fp8"}
    found = problem_of(model="deepseek-ai/DeepSeek-V3", precision=asked).precisions
    assert [p.by_module() for p in found] == [
        {"attention": "fp8", "ffn": "fp8_block", "experts": e, "kv": "fp8", "lm_head": "fp8"}
        for e in ("nvfp4", "fp8_block")
    ]
    # A module that is named has its own formats, the others those of `weights`.
    (mixed,) = problem_of(precision={"weights": "int4", "attention": "native"}).precisions
    assert str(mixed) == "attention:bf16 ffn:int4 experts:int4 kv:bf16"
    (dense,) = problem_of(precision={"ffn": "fp8"}).precisions
    assert dense.experts == "fp8"
    with pytest.raises(ConfigError, match=r"precision.experts: Qwen/Qwen3-8B has no experts"):
        problem_of(precision={"experts": "fp8"})


def test_a_device_adapts_each_module(space_of: Callable[..., Space]) -> None:
    asked = {"experts": "nvfp4", "attention": "fp8", "ffn": "fp8", "kv": "fp8", "lm_head": "fp8"}
    on = {
        device: str(precision)
        for device in ("a100_sxm", "h200_sxm", "b200_sxm")
        for _, precision in space_of(
            model="deepseek-ai/DeepSeek-V3", devices=[device], precision=asked
        ).pairs()
    }
    expanded = "fp8_weight_only"
    assert on == {
        "a100_sxm": f"attention:{expanded} ffn:{expanded} experts:nvfp4_weight_only kv:fp8 "
        f"lm_head:{expanded}",
        "h200_sxm": "attention:fp8 ffn:fp8 experts:nvfp4_weight_only kv:fp8 lm_head:fp8",
        "b200_sxm": "attention:fp8 ffn:fp8 experts:nvfp4 kv:fp8 lm_head:fp8",
    }


@pytest.mark.parametrize(
    ("device", "asked", "runs"),
    [
        ("a100_sxm", "fp8", "fp8_weight_only"),
        ("a100_sxm", "fp8_block", "fp8_weight_only"),
        ("a100_sxm", "int8", "int8"),
        ("h100_sxm", "fp8", "fp8"),
        ("h100_sxm", "nvfp4", "nvfp4_weight_only"),
        ("b200_sxm", "nvfp4", "nvfp4"),
        ("h100_sxm", "mxfp4", "mxfp4"),
        ("b200_sxm", "mxfp4", "mxfp4_mxfp8"),
        ("a100_sxm", "bf16", "bf16"),
    ],
)
def test_each_device_runs_what_it_can(
    space_of: Callable[..., Space], device: str, asked: str, runs: str
) -> None:
    space = space_of(devices=[device], precision={"weights": asked})
    assert [str(p) for _, p in space.pairs()] == [f"weights:{runs} kv:bf16"]


def test_what_no_device_of_a_kind_multiplies_is_not_supported() -> None:
    a100, h100 = load_device("a100_sxm"), load_device("h100_sxm")
    fp8 = Precision("fp8", "fp8", "fp8", "fp8")
    assert supported(fp8, h100)
    assert not supported(fp8, a100)
    assert supported(Precision("bf16", "bf16", "bf16", "fp8"), a100)


def test_arrivals_and_utilization(problem_of: Callable[..., Problem]) -> None:
    assert problem_of().arrival_cv2 == 1.0
    assert problem_of().max_utilization == 0.95
    steady = problem_of(workload={"arrivals": "steady"})
    assert (steady.arrival_cv2, steady.max_utilization) == (0.0, 1.0)
    assert problem_of(search={"max_utilization": 0.5}).max_utilization == 0.5


def test_demand(problem_of: Callable[..., Problem]) -> None:
    assert problem_of().qps == 20.0
    devices = [{"name": "h100_sxm", "inventory": 8}]
    assert problem_of(workload={"qps": "max"}, devices=devices).qps is None
