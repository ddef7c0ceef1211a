"""Result files of load generators: vLLM's, AIPerf's and genai-perf's, GuideLLM's, inference-perf's.

Forms as the packages' own exporters write them (vllm 0.33.0, aiperf 0.13.0, genai-perf 0.0.16,
guidellm 0.8.1, inference-perf 0.7.0), told apart by what they hold. A reader takes what it
needs and leaves the rest.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perfmodel.documents import parse_json, read_text
from perfmodel.errors import ConfigError, InputError

Statistics = Mapping[str, float]
"""Seconds by statistic: `mean`, `min`, `p50`, `p99`, ..."""


@dataclass(frozen=True)
class Measured:
    """What a load generator measured.

    Attributes:
        tool: that wrote the file.
        qps: requests finished per second.
        offered_qps: that it set out to send per second; None if it did not pace them, or does
            not say.
        concurrency: requests in flight, mean or limit; None if not said.
        ttft, ttit, e2e: of successful requests; `ttit` is time per output token after the first.
    """

    tool: str
    model: str | None
    qps: float
    offered_qps: float | None
    concurrency: float | None
    input_tokens: float | None
    output_tokens: float | None
    completed: int | None
    failed: int | None
    ttft: Statistics
    ttit: Statistics
    e2e: Statistics = field(default_factory=dict)

    @property
    def in_flight(self) -> float | None:
        """Requests in flight on average: by Little's law where latencies are known."""
        if "mean" in self.e2e:
            return self.qps * self.e2e["mean"]
        if "mean" in self.ttft and "mean" in self.ttit and self.output_tokens:
            return self.qps * (self.ttft["mean"] + self.ttit["mean"] * (self.output_tokens - 1))
        return self.concurrency


def read_results(path: Path, benchmark: int | None = None) -> Measured:
    """Read a load generator's result file.

    Args:
        benchmark: which of a file that holds several (GuideLLM), from 0; the last if not said.

    Raises:
        ConfigError: no such file, of no known form, or without a figure that it must have.
    """
    text = read_text(path, "JSON or CSV")
    try:
        if path.suffix == ".csv":
            return _timed(_exported_table(text))
        return _timed(_from_json(_parsed(text, path), benchmark))
    except ConfigError as error:
        raise error.in_source(str(path)) from None
    except InputError as error:
        raise ConfigError(str(error), source=str(path)) from None


def _timed(found: Measured) -> Measured:
    """Without a time per output token where that is zero: answers of one token have none."""
    return found if found.ttit.get("mean") else replace(found, ttit={})


def _parsed(text: str, path: Path) -> Any:
    lines = [line for line in text.splitlines() if line.strip()]
    # `vllm bench serve --append-result` writes one object a line.
    return parse_json(lines[-1] if len(lines) > 1 and _one_a_line(lines) else text, path)


def _one_a_line(lines: list[str]) -> bool:
    return all(line.startswith("{") and line.endswith("}") for line in lines)


def _from_json(data: Any, benchmark: int | None) -> Measured:
    if not isinstance(data, dict):
        raise InputError(f"expected a JSON object, got {type(data).__name__}")
    several = isinstance(data.get("benchmarks"), list)
    if benchmark is not None and not several:
        raise InputError("holds one benchmark: leave --benchmark out")
    if several:
        runs = data["benchmarks"]
        at = len(runs) - 1 if benchmark is None else benchmark
        if not 0 <= at < len(runs):
            raise InputError(f"has {len(runs)} benchmarks, from 0; there is no {at}")
        return _guidellm(data, _mapping(runs[at], f"benchmarks.{at}"))
    for reader, key in READERS:
        if key in data:
            return reader(data)
    raise InputError(
        "of no known form; expected results of vllm bench serve, AIPerf or genai-perf (JSON or "
        "CSV), GuideLLM or inference-perf"
    )


def _vllm(data: Mapping[str, Any]) -> Measured:
    def spread(name: str) -> dict[str, float]:
        found = {"mean": f"mean_{name}_ms", "p50": f"median_{name}_ms"}
        for key in data:
            if match := re.fullmatch(rf"p(\d+(?:\.\d+)?)_{name}_ms", key):
                found[f"p{match.group(1)}"] = key
        return {s: _number(data, k) / 1e3 for s, k in found.items() if data.get(k) is not None}

    done = int(_number(data, "completed"))
    if done == 0:
        raise InputError("completed: no request was answered")
    rate = data.get("request_rate")
    return Measured(
        tool="vllm bench serve",
        model=data.get("model_id"),
        qps=_number(data, "request_throughput"),
        offered_qps=None if rate in (None, "inf") else _number(data, "request_rate"),
        concurrency=_number(data, "max_concurrency") if data.get("max_concurrency") else None,
        input_tokens=_number(data, "total_input_tokens") / done,
        output_tokens=_number(data, "total_output_tokens") / done,
        completed=done,
        failed=int(_number(data, "failed")) if "failed" in data else None,
        ttft=_stated(spread("ttft"), "mean_ttft_ms"),
        ttit=spread("tpot") or spread("itl"),
        e2e=spread("e2el"),
    )


PER_SECOND = {"ms": 1e3, "s": 1.0, "sec": 1.0, "us": 1e6, "ns": 1e9}
"""Units of time, per second."""


def _aiperf(data: Mapping[str, Any]) -> Measured:
    def spread(name: str) -> dict[str, float]:
        metric = data.get(name)
        if metric is None:
            return {}
        unit = _mapping(metric, name).get("unit", "ms")
        if unit not in PER_SECOND:
            raise InputError(f"{name}.unit: expected a time, got {unit!r}")
        return {
            {"avg": "mean"}.get(key, key): _number(metric, key, name) / PER_SECOND[unit]
            for key in metric
            if key in ("avg", "min", "max") or re.fullmatch(r"p\d+", key)
            if metric[key] is not None
        }

    def mean(name: str) -> float | None:
        metric = data.get(name)
        return None if metric is None else _number(_mapping(metric, name), "avg", name)

    qps, count, failed = (
        mean("request_throughput"),
        mean("request_count"),
        mean("error_request_count"),
    )
    if qps is None:
        raise ConfigError("this field is required", field="request_throughput")
    config = data.get("input_config") or {}
    return Measured(
        tool="AIPerf",
        model=_named(config),
        qps=qps,
        offered_qps=None,
        concurrency=None,
        input_tokens=mean("input_sequence_length"),
        output_tokens=mean("output_sequence_length"),
        completed=None if count is None else int(count),
        failed=None if failed is None else int(failed),
        ttft=_stated(spread("time_to_first_token"), "time_to_first_token"),
        ttit=spread("inter_token_latency"),
        e2e=spread("request_latency"),
    )


def _named(config: Any) -> str | None:
    """The model in genai-perf's or AIPerf's record of its options, if it is there."""
    if not isinstance(config, Mapping):
        return None
    names = config.get("model_names") or (config.get("endpoint") or {}).get("model_names") or []
    return str(names[0]) if isinstance(names, list) and names else None


COLUMNS = {
    "time to first token": "time_to_first_token",
    "inter token latency": "inter_token_latency",
    "request latency": "request_latency",
    "output sequence length": "output_sequence_length",
    "input sequence length": "input_sequence_length",
    "request throughput": "request_throughput",
    "request count": "request_count",
    "error request count": "error_request_count",
}
"""Metrics of AIPerf's and genai-perf's tables (lower case, without units) in the JSON's names."""


def _exported_table(text: str) -> Measured:
    """The CSV form: tables one below the other, each with a header that begins with `Metric`."""
    data: dict[str, dict[str, Any]] = {}
    header: list[str] = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        if row and row[0] == "Metric":
            header = row
            continue
        if not header or not row:
            continue
        match = re.fullmatch(r"(.*?)\s*(?:\((.*)\))?", row[0])
        title, unit = match.groups() if match else (row[0], None)
        name = COLUMNS.get(title.lower())
        if name is None:
            continue
        metric: dict[str, Any] = {"unit": unit} if unit else {}
        for key, value in zip(header[1:], row[1:], strict=False):
            if value:
                metric["avg" if key == "Value" else key] = _float(value, f"line {number}, {key}")
        data[name] = metric
    if not data:
        raise InputError("of no known form; expected a CSV that AIPerf or genai-perf exported")
    return _aiperf(data)


def _guidellm(whole: Mapping[str, Any], data: Mapping[str, Any]) -> Measured:
    metrics = _mapping(data.get("metrics"), "metrics")

    def summary(name: str) -> Mapping[str, Any]:
        metric = _mapping(metrics.get(name), f"metrics.{name}")
        return _mapping(metric.get("successful"), f"metrics.{name}.successful")

    def spread(name: str, per_second: float) -> dict[str, float]:
        found = summary(name)
        values = {key: found.get(key) for key in ("mean", "min", "max")}
        percentiles = _mapping(found.get("percentiles") or {}, f"metrics.{name}.percentiles")
        values |= {f"p{int(k[1:])}": v for k, v in percentiles.items() if re.fullmatch(r"p\d\d", k)}
        return {k: _float(v, name) / per_second for k, v in values.items() if v is not None}

    totals = metrics.get("request_totals") or {}
    strategy = (data.get("config") or {}).get("strategy") or data.get("scheduler") or {}
    inner = strategy.get("strategy", strategy) if isinstance(strategy, Mapping) else {}
    rate = inner.get("rate") if isinstance(inner, Mapping) else None
    arguments = whole.get("args") or {}
    return Measured(
        tool="GuideLLM",
        model=arguments.get("model") if isinstance(arguments, Mapping) else None,
        qps=_number(summary("requests_per_second"), "mean"),
        offered_qps=float(rate) if isinstance(rate, int | float) else None,
        concurrency=_number(summary("request_concurrency"), "mean"),
        input_tokens=_number(summary("prompt_token_count"), "mean"),
        output_tokens=_number(summary("output_token_count"), "mean"),
        completed=totals.get("successful"),
        failed=totals.get("errored"),
        ttft=_stated(spread("time_to_first_token_ms", 1e3), "time_to_first_token_ms"),
        ttit=spread("inter_token_latency_ms", 1e3),
        e2e=spread("request_latency", 1.0),
    )


def _inference_perf(data: Mapping[str, Any]) -> Measured:
    done = _mapping(data["successes"], "successes")
    latency = _mapping(done.get("latency"), "successes.latency")
    throughput = _mapping(done.get("throughput"), "successes.throughput")

    def spread(name: str) -> dict[str, float]:
        found = latency.get(name) or {}
        return {
            {"median": "p50"}.get(key, key): _float(value, name)
            for key, value in found.items()
            if key in ("mean", "min", "max", "median") or re.fullmatch(r"p\d+(\.\d+)?", key)
        }

    def length(*names: str) -> float | None:
        for name in names:
            found = done.get(name) or {}
            found = found.get("per_request") or found
            if isinstance(found, Mapping) and found.get("mean") is not None:
                return _number(found, "mean", name)
        return None

    load = data.get("load_summary") or {}
    rate = load.get("requested_rate")
    return Measured(
        tool="inference-perf",
        model=None,
        qps=_number(throughput, "requests_per_sec"),
        offered_qps=float(rate) if isinstance(rate, int | float) else None,
        concurrency=None,
        input_tokens=length("prompt_tokens", "prompt_len"),
        output_tokens=length("output_tokens", "output_len"),
        completed=done.get("count"),
        failed=(data.get("failures") or {}).get("count"),
        ttft=_stated(spread("time_to_first_token"), "successes.latency.time_to_first_token"),
        ttit=spread("time_per_output_token") or spread("inter_token_latency"),
        e2e=spread("request_latency"),
    )


READERS: tuple[tuple[Callable[[Mapping[str, Any]], Measured], str], ...] = (
    (_vllm, "total_input_tokens"),
    (_inference_perf, "successes"),
    (_aiperf, "time_to_first_token"),
    (_aiperf, "request_throughput"),
)
"""Each form's reader, and a field that no other form before it has."""


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            "this field is required" if value is None else "expected a mapping", field=name
        )
    return value


def _stated(found: dict[str, float], name: str) -> dict[str, float]:
    if "mean" not in found:
        raise ConfigError("a mean is required: was the run streamed?", field=name)
    return found


def _number(data: Mapping[str, Any], key: str, within: str = "") -> float:
    name = f"{within}.{key}" if within else key
    if data.get(key) is None:
        raise ConfigError("this field is required", field=name)
    return _float(data[key], name)


def _float(value: Any, name: str) -> float:
    try:
        number = float(value.replace(",", "")) if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < math.inf:
        raise ConfigError(f"expected a number from zero up, got {value!r}", field=name)
    return number
