"""Query files: every spelling that is read, and what is said of each mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from perfmodel.errors import ConfigError
from perfmodel.expert_load import ExpertLoad
from planner.problem import resolve
from planner.query import Query, load_query
from planner.schema import fields, json_schema
from planner.solve import query_data

GOOD = """\
model: Qwen/Qwen3-8B
workload:
  qps: 20
  input_tokens: 1000
  output_tokens: 100
slo:
  ttft: 500ms
  ttit: 30ms
devices:
  - h100_sxm
  - name: a100_sxm
    usd_per_device_hour: 2.5
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "query.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    """What is said of a bad file; it begins with the file's name."""
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_query(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return str(caught.value).replace(str(path), "FILE")


def test_a_good_file(tmp_path: Path) -> None:
    query = load_query(str(written(tmp_path, GOOD)))
    assert query.workload.qps == 20
    assert query.workload.input_tokens.mean == 1000
    assert query.slo.ttft is not None
    assert query.slo.ttft.seconds == 0.5
    assert [d.name for d in query.devices] == ["h100_sxm", "a100_sxm"]
    assert query.devices[1].usd_per_device_hour == 2.5
    assert query.runtime == ("continuous", "disaggregated")
    assert query.engine == "trtllm"
    assert query.search.max_replica_devices == 256


@pytest.mark.parametrize(
    ("spelling", "seconds", "statistic"),
    [
        ("200ms", 0.2, "mean"),
        ("0.2s", 0.2, "mean"),
        ("200 ms", 0.2, "mean"),
        ("200000us", 0.2, "mean"),
        ("2e-1s", 0.2, "mean"),
        ({"mean": "200ms"}, 0.2, "mean"),
        ({"p99": "1.5s"}, 1.5, "p99"),
        ({"p50": "10ms"}, 0.01, "p50"),
        ({"p99.9": "1s"}, 1.0, "p99.9"),
        ({"seconds": 0.2, "percentile": 95}, 0.2, "p95"),
    ],
)
@pytest.mark.parametrize("name", ["ttft", "ttit"])
def test_latency_spellings(
    make_query: Callable[..., Query], name: str, spelling: Any, seconds: float, statistic: str
) -> None:
    target = getattr(make_query(slo={name: spelling}).slo, name)
    assert target.seconds == pytest.approx(seconds)
    assert target.statistic == statistic


@pytest.mark.parametrize(
    ("spelling", "mean", "longest"),
    [
        (800, 800, 800),
        ("800", 800, 800),
        ("32k", 32000, 32000),
        ({"tokens": [500, 2000], "weights": [3, 1]}, 875, 2000),
        ({"tokens": ["2k", 500], "weights": [0.25, 0.75]}, 875, 2000),
        ({"p50": 700}, 700, 700),
    ],
)
def test_length_spellings(
    make_query: Callable[..., Query], spelling: Any, mean: float, longest: float
) -> None:
    lengths = make_query(workload={"input_tokens": spelling}).workload.input_tokens
    assert lengths.mean == pytest.approx(mean)
    assert lengths.maximum == longest
    assert sum(lengths.weights) == pytest.approx(1.0)


def test_percentiles_of_lengths(make_query: Callable[..., Query]) -> None:
    lengths = make_query(workload={"input_tokens": {"p50": 1000, "p99": "4k"}}).workload
    tokens, weights = lengths.input_tokens.tokens, lengths.input_tokens.weights
    assert list(tokens) == sorted(tokens)
    assert tokens[0] < 1000 < tokens[-1]
    below = sum(w for t, w in zip(tokens, weights, strict=True) if t <= 1000)
    assert below == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("both", ("continuous", "disaggregated")),
        ("continuous", ("continuous",)),
        (["disaggregated"], ("disaggregated",)),
    ],
)
def test_runtime_spellings(
    make_query: Callable[..., Query], given: Any, read: tuple[str, ...]
) -> None:
    assert make_query(runtime=given).runtime == read


@pytest.mark.parametrize("given", ["fp8", ["fp8"]])
def test_one_format_or_several(make_query: Callable[..., Query], given: Any) -> None:
    assert make_query(precision={"weights": given}).precision.weights == ("fp8",)
    assert make_query(precision={"kv": ["bf16", "fp8"]}).precision.kv == ("bf16", "fp8")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("Qwen/Qwen3-8B", "./mine/config.json").replace("h100_sxm", "mine.yaml")
    query = load_query(written(tmp_path, text))
    assert query.model == str(tmp_path / "mine" / "config.json")
    assert query.devices[0].name == str(tmp_path / "mine.yaml")


def test_a_recipe_in_the_query(make_query: Callable[..., Query], tmp_path: Path) -> None:
    query = make_query(model={"recipe": {"parameters": "1.8T", "experts": 16}})
    assert resolve(query).model.parameters() == pytest.approx(1.8e12, rel=0.01)
    assert resolve(Query.model_validate(query_data(query))).model == resolve(query).model
    text = GOOD.replace("Qwen/Qwen3-8B", "mine.yaml")
    assert load_query(written(tmp_path, text)).model == str(tmp_path / "mine.yaml")
    recipe = {"parameters": "1T", "experts": 16, "active_parameters": "2T"}
    impossible = make_query(model={"recipe": recipe})
    with pytest.raises(ConfigError, match="at most the 1 T parameters") as caught:
        resolve(impossible)
    assert caught.value.field == "model.recipe.active_parameters"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{recipe: {parameters: big}}", "1: model.recipe.parameters: expected a parameters"),
        ("{recipe: {}}", "1: model.recipe.parameters: this field is required"),
        ("{parameters: 1T}", "1: model.recipe: this field is required"),
        ("7", "1: model: Input should be a valid string"),
    ],
)
def test_a_wrong_recipe_in_the_query(tmp_path: Path, model: str, said: str) -> None:
    assert f"FILE:{said}" in refused(tmp_path, GOOD.replace("Qwen/Qwen3-8B", model))


WRONG = [
    ("qps: 20", "qps: 0", 3, "workload.qps", "more than zero requests per second, got 0"),
    ("qps: 20", "qps: -3.5", 3, "workload.qps", "more than zero requests per second, got -3.5"),
    ("qps: 20", "qps: .nan", 3, "workload.qps", "more than zero"),
    ("qps: 20", "qps: .inf", 3, "workload.qps", "more than zero"),
    ("qps: 20", "qps: many", 3, "workload.qps", "requests per second or `max`, got 'many'"),
    ("qps: 20", "qps: true", 3, "workload.qps", "requests per second"),
    ("qps: 20", "qps: [20]", 3, "workload.qps", "requests per second"),
    ("  qps: 20\n", "", 2, "workload.qps", "this field is required"),
    ("qps: 20", "qps: max", 1, "", "`max` needs an inventory for every device"),
    ("input_tokens: 1000", "input_tokens: 0", 4, "workload.input_tokens", "at least one token"),
    ("input_tokens: 1000", "input_tokens: 9GiB", 4, "workload.input_tokens", "unknown unit 'GiB'"),
    ("input_tokens: 1000", "input_tokens: {50: 9}", 4, "workload.input_tokens", "such as p50"),
    ("input_tokens: 1000", "input_tokens: {p50: 9, p90: 8}", 4, "workload.input_tokens", "not dec"),
    (
        "input_tokens: 1000",
        "input_tokens: {tokens: [1, 2], weights: [1]}",
        4,
        "workload.input_tokens",
        "as many weights",
    ),
    (
        "input_tokens: 1000",
        "input_tokens: {tokens: 5, weights: 1}",
        4,
        "workload.input_tokens",
        "expected lists",
    ),
    (
        "input_tokens: 1000",
        "input_tokens: {tokens: [5], weights: [x]}",
        4,
        "workload.input_tokens",
        "expected weights as numbers",
    ),
    ("output_tokens: 100", "output_tokens: -1", 5, "workload.output_tokens", "at least one token"),
    ("output_tokens: 100", "output_tokens: []", 5, "workload.output_tokens", "tokens quantity"),
    ("ttft: 500ms", "ttft: 500", 7, "slo.ttft", "a unit is missing in 500"),
    ("ttft: 500ms", "ttft: 5GB", 7, "slo.ttft", "unknown unit 'GB' in '5GB'"),
    ("ttft: 500ms", "ttft: 0ms", 7, "slo.ttft", "latency above zero"),
    ("ttft: 500ms", "ttft: -5ms", 7, "slo.ttft", "latency above zero"),
    ("ttft: 500ms", "ttft: {p100: 5ms}", 7, "slo.ttft", "below 100"),
    ("ttft: 500ms", "ttft: {p0: 5ms}", 7, "slo.ttft", "above 0"),
    ("ttft: 500ms", "ttft: {median: 5ms}", 7, "slo.ttft", "percentiles such as p50 or p99"),
    ("ttft: 500ms", "ttft: {p50: 5ms, p99: 9ms}", 7, "slo.ttft", "expected one statistic"),
    ("ttft: 500ms", "ttft: [5ms]", 7, "slo.ttft", "time quantity"),
    ("ttit: 30ms", "ttit: 30Hz", 8, "slo.ttit", "unknown unit 'Hz'"),
    ("ttit: 30ms", "e2e: {p99: 3s}", 6, "slo", "e2e: expected a mean"),
    ("ttit: 30ms", "itl: 30ms", 8, "slo.itl", "unknown field"),
    ("usd_per_device_hour: 2.5", "usd_per_device_hour: 0", 12, "devices.1.usd_per", "greater than"),
    ("usd_per_device_hour: 2.5", "usd_per_device_hour: -1", 12, "devices.1.usd_per", "greater th"),
    ("usd_per_device_hour: 2.5", "usd_per_device_hour: .inf", 12, "devices.1.usd_per", "finite"),
    ("usd_per_device_hour: 2.5", "usd_per_device_hour: .nan", 12, "devices.1.usd_per", "(got nan)"),
    ("usd_per_device_hour: 2.5", "usd_per_device_hour: $2", 12, "devices.1.usd_per", "2.5 USD/h"),
    ("usd_per_device_hour: 2.5", "usd_per_device_hour: 3 EUR", 12, "devices.1.usd_per", "'EUR'"),
    ("usd_per_device_hour: 2.5", "usd_per_device_hour: true", 12, "devices.1.usd_per", "a number"),
    ("usd_per_device_hour: 2.5", "inventory: 0", 12, "devices.1.inventory", "greater than"),
    ("usd_per_device_hour: 2.5", "inventory: 1.5", 12, "devices.1.inventory", "integer"),
    ("usd_per_device_hour: 2.5", "host_devices: 0", 12, "devices.1.host_devices", "greater than"),
    ("usd_per_device_hour: 2.5", "price: 2.5", 12, "devices.1.price", "unknown field"),
    ("name: a100_sxm", "name: h100_sxm", 9, "devices", "given twice: h100_sxm"),
    ("  - h100_sxm", "  - 100", 10, "devices.0", "a mapping of fields"),
    ("model: Qwen/Qwen3-8B", "model: [a, b]", 1, "model", "valid string"),
    ("model: Qwen/Qwen3-8B\n", "", 1, "model", "this field is required"),
    ("model: Qwen/Qwen3-8B", "model: x\nruntime: []", 2, "runtime", "at least one value"),
    ("model: Qwen/Qwen3-8B", "model: x\nruntime: offline", 2, "runtime", "'offline'"),
    ("model: Qwen/Qwen3-8B", "model: x\nengine: tgi", 2, "engine", "unknown engine 'tgi'"),
    (
        "model: Qwen/Qwen3-8B",
        "model: x\nprecision: {weights: fp4}",
        2,
        "precision.weights",
        "unknown format 'fp4'",
    ),
    (
        "model: Qwen/Qwen3-8B",
        "model: x\nprecision: {weights: []}",
        2,
        "precision.weights",
        "at least one value",
    ),
    (
        "model: Qwen/Qwen3-8B",
        "model: x\nsearch: {max_replica_devices: 512}",
        2,
        "search.max_replica_devices",
        "less than or equal to 256",
    ),
    (
        "model: Qwen/Qwen3-8B",
        "model: x\nsearch: {max_replica_devices: 100}",
        2,
        "search.max_replica_devices",
        "a power of two, as replicas have devices: 64 or 128, got 100",
    ),
    *(
        ("model: Qwen/Qwen3-8B", f"model: x\n{given}", 2, field, "put one that is meant in quotes")
        for given, field in (
            ("kv_transfer: {overlap: no}", "kv_transfer.overlap"),
            ("prefix_cache: {tier: [off]}", "prefix_cache.tier.0"),
            ("engine: on", "engine"),
            ("encoder: no", "encoder"),
        )
    ),
    (
        "model: Qwen/Qwen3-8B",
        "model: x\nsearch: {max_utilization: 1.2}",
        2,
        "search.max_utilization",
        "less than or equal to 1",
    ),
    *(
        (
            "model: Qwen/Qwen3-8B",
            f"model: x\nspeculation: {{{given}}}",
            2,
            f"speculation.{field}",
            said,
        )
        for given, field, said in (
            ("draft_tokens: 3", "acceptance", "this field is required"),
            ("acceptance: 0.7", "draft_tokens", "this field is required"),
            ("draft_tokens: 9, acceptance: 0.7", "draft_tokens", "less than or equal to 8"),
            ("draft_tokens: [1, -1], acceptance: 0.7", "draft_tokens", "greater than or equal"),
            ("draft_tokens: 1.5, acceptance: 0.7", "draft_tokens", "whole numbers of tokens"),
            ("draft_tokens: true, acceptance: 0.7", "draft_tokens", "whole numbers of tokens"),
            ("draft_tokens: [], acceptance: 0.7", "draft_tokens", "at least one value"),
            ("draft_tokens: 2, acceptance: 1", "acceptance", "less than 1"),
            ("draft_tokens: 2, acceptance: -0.1", "acceptance", "greater than or equal to 0"),
            ("draft_tokens: 2, acceptance: true", "acceptance", "a number"),
            ("draft_tokens: 2, acceptance: .nan", "acceptance", "(got nan)"),
            ("draft_tokens: 2, acceptance: 0.5, model: x", "model", "unknown field"),
        )
    ),
    ("  qps: 20", "  qps: 20\n  prefix_cache_hit: 1", 4, "workload.prefix_cache_hit", "less than"),
    ("  qps: 20", "  qps: 20\n  prefix_cache_hit: 30", 4, "workload.prefix_cache_hit", "0 to 1"),
    ("  qps: 20", "  qps: 20\n  arrivals: bursty", 4, "workload.arrivals", "'poisson'"),
]


@pytest.mark.parametrize(("old", "new", "line", "field", "said"), WRONG)
def test_one_mistake(tmp_path: Path, old: str, new: str, line: int, field: str, said: str) -> None:
    assert old in GOOD
    message = refused(tmp_path, GOOD.replace(old, new))
    head, *more = message.splitlines()
    assert not more
    assert head.startswith(f"FILE:{line}: {field}")
    assert said in head


def test_several_mistakes_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace("qps: 20", "qps: -1")
        .replace("ttft: 500ms", "ttft: 500")
        .replace("2.5", "0")
        .replace("model:", "modle:")
    )
    lines = refused(tmp_path, text).splitlines()
    starts = {line.rsplit(": ", 1)[0] for line in lines}
    for expected in (
        "FILE:1: modle: unknown field",
        "FILE:1: model: this field is required",
        "FILE:3: workload.qps: ",
        "FILE:7: slo.ttft: ",
        "FILE:12: devices.1.usd_per_device_hour: ",
    ):
        assert any(line.startswith(expected) for line in lines), expected
    assert len(lines) == 5, starts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: x\nworkload: {qps: 1,\n", "FILE:3:1: not valid YAML"),
        ("model: x\n\tworkload: 1\n", "FILE:2:1: not valid YAML"),
        ("model: 'x\n", "FILE:2:1: not valid YAML"),
        ("model: x\nmodel: y\n", "FILE:2: model: given twice (first on 1)"),
        ("workload:\n  qps: 1\n  qps: 2\n", "FILE:3: workload.qps: given twice (first on 2)"),
        ("- model\n- workload\n", "FILE:1: expected a mapping of fields"),
        ("just words\n", "FILE:1: expected a mapping of fields"),
        ("", "FILE:1: expected a mapping of fields"),
    ],
)
def test_what_is_not_a_mapping_of_fields(tmp_path: Path, text: str, said: str) -> None:
    assert refused(tmp_path, text).startswith(said)


def test_devices_not_in_a_list(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("devices:")] + "devices: h100_sxm\n"
    assert refused(tmp_path, text) == "FILE:9: devices: expected a list (got 'h100_sxm')"
    text = GOOD[: GOOD.index("devices:")] + "devices: []\n"
    assert refused(tmp_path, text) == "FILE:9: devices: expected at least one value"


def test_a_query_is_never_changed_in_place(make_query: Callable[..., Query]) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_query().model = "another"  # type: ignore[misc]


def test_a_query_written_into_a_plan_reads_back_the_same(make_query: Callable[..., Query]) -> None:
    query = make_query(
        workload={"qps": 7, "input_tokens": {"p50": 500, "p99": 3000}, "prefix_cache_hit": 0.5},
        slo={"ttft": {"p99": "300ms"}, "e2e": "9s"},
        devices=["l40s", {"name": "h100_sxm", "usd_per_device_hour": 3, "inventory": 16}],
        runtime="disaggregated",
        precision={"weights": ["native", "fp8"], "kv": "fp8"},
        engine="vllm",
        speculation={"draft_tokens": [3, 0, 1, 3], "acceptance": 0.7},
    )
    assert query.speculation is not None
    assert query.speculation.draft_tokens == (0, 1, 3)
    data = json.loads(json.dumps(query_data(query)))
    assert Query.model_validate(data) == query


def test_every_field_is_documented() -> None:
    documented = {path: meaning for path, _, meaning in fields()}
    for path, meaning in documented.items():
        assert meaning, f"{path} has no description"
    for path in (
        "model",
        "workload.qps",
        "workload.input_tokens",
        "workload.prefix_cache_hit",
        "slo.ttft",
        "slo.ttit",
        "slo.e2e",
        "devices[].usd_per_device_hour",
        "devices[].inventory",
        "devices[].host_devices",
        "runtime",
        "engine",
        "precision.weights",
        "precision.activations",
        "precision.kv",
        "speculation.draft_tokens",
        "speculation.acceptance",
        "search.max_replica_devices",
        "search.max_utilization",
    ):
        assert path in documented
    required = {path for path, default, _ in fields() if default == "required"}
    assert {"model", "workload.qps", "devices", "devices[].name"} <= required
    assert "slo" not in required


def test_the_json_schema_names_the_fields() -> None:
    schema = json.loads(json_schema())
    assert set(schema["required"]) == {"model", "workload", "devices"}
    assert set(schema["properties"]) == set(Query.model_fields)
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    "images",
    [
        {"per_request": 2, "width": 1024, "height": 768},
        {"per_request": 0.5, "tokens": 1000},
    ],
)
def test_images(make_query: Callable[..., Query], images: dict[str, Any]) -> None:
    query = make_query(model="qwen3-vl-8b", workload={"images": images})
    problem = resolve(query)
    # 32 x 24 merged patches and two delimiters.
    tokens = 2 * (32 * 24 + 2) if "width" in images else 500
    assert problem.traffic.inputs.mean == query.workload.input_tokens.mean + tokens
    assert problem.traffic.vision is not None
    assert problem.traffic.vision.sequences == images["per_request"]
    again = Query.model_validate(query_data(query))
    assert resolve(again).traffic == problem.traffic


def test_images_need_an_encoder_that_takes_them(make_query: Callable[..., Query]) -> None:
    images = {"per_request": 1, "width": 640, "height": 480}
    text = make_query(workload={"images": images})
    with pytest.raises(ConfigError, match="Qwen3-8B has no vision encoder") as caught:
        resolve(text)
    assert caught.value.field == "workload.images"
    strip = make_query(model="qwen3-vl-8b", workload={"images": images | {"height": 3}})
    with pytest.raises(ConfigError, match="within a factor of 200") as caught:
        resolve(strip)
    assert caught.value.field == "workload.images"
    many = make_query(model="qwen3-vl-8b", workload={"images": images | {"per_request": 900}})
    with pytest.raises(ConfigError, match="accepts at most 262,144"):
        resolve(many)


@pytest.mark.parametrize(
    ("images", "field", "said"),
    [
        ("{per_request: 1}", "images", "expected width and height, or tokens"),
        ("{per_request: 1, width: 5}", "images", "expected width and height, or tokens"),
        (
            "{per_request: 1, width: 5, height: 5, tokens: 5}",
            "images",
            "expected width and height, or tokens",
        ),
        ("{per_request: 0, tokens: 5}", "images.per_request", "greater than 0 (got 0)"),
        ("{per_request: yes, tokens: 5}", "images.per_request", "expected a number, got True"),
        ("{per_request: 1, tokens: 0}", "images.tokens", "greater than or equal to 1"),
        ("{per_request: 1, size: 5, tokens: 1}", "images.size", "unknown field"),
    ],
)
def test_wrong_images(tmp_path: Path, images: str, field: str, said: str) -> None:
    text = GOOD.replace("  qps: 20\n", f"  qps: 20\n  images: {images}\n")
    shown = refused(tmp_path, text)
    assert f"FILE:4: workload.{field}: " in shown
    assert said in shown


def test_stated_routing(make_query: Callable[..., Query], tmp_path: Path) -> None:
    moe = "Qwen/Qwen3-30B-A3B"
    assert resolve(make_query(model=moe, routing="balanced")).routing == "balanced"
    stated = {"distribution": "power_law", "exponent": 0.8, "placement": "balanced"}
    query = make_query(model=moe, routing=stated | {"redundant_experts": 8})
    load = resolve(query).routing
    assert load == ExpertLoad("power_law", 0.8, (), "balanced", 8)
    assert resolve(Query.model_validate(query_data(query))).routing == load
    counts = tmp_path / "counts.csv"
    counts.write_text(",".join(["1"] * 128) + "\n")
    text = GOOD.replace("Qwen/Qwen3-8B", moe)
    text += "routing: {distribution: histogram, file: counts.csv}\n"
    read = load_query(written(tmp_path, text))
    assert resolve(read).routing == ExpertLoad("histogram", counts=((1.0,) * 128,))
    for rows, said in ((1, "the 128 experts of a layer, got 3"), (2, "or of the 48 with experts")):
        counts.write_text("1,2,3\n" * rows)
        with pytest.raises(ConfigError, match=said):
            resolve(read)
    dense = make_query(routing={"distribution": "uniform"})
    with pytest.raises(ConfigError, match="has no experts") as caught:
        resolve(dense)
    assert caught.value.field == "routing"


@pytest.mark.parametrize(
    ("routing", "field", "said"),
    [
        ("even", "routing", "Input should be 'balanced', 'power_law_1.01'"),
        ("{distribution: power_law}", "routing", "exponent: expected a value"),
        ("{distribution: uniform, exponent: 1}", "routing", "exponent: expected none"),
        ("{distribution: histogram}", "routing", "file: expected a value"),
        (
            "{distribution: uniform, redundant_experts: 1}",
            "routing",
            "unless placement is balanced",
        ),
        (
            "{distribution: power_law, exponent: -1}",
            "routing.exponent",
            "greater than or equal to 0",
        ),
        ("{distribution: zipf}", "routing.distribution", "Input should be 'uniform'"),
        ("{placement: balanced}", "routing.distribution", "this field is required"),
    ],
)
def test_wrong_routing(tmp_path: Path, routing: str, field: str, said: str) -> None:
    shown = refused(tmp_path, f"{GOOD}routing: {routing}\n")
    assert f"FILE:13: {field}: " in shown
    assert said in shown
