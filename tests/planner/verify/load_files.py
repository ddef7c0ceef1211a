"""Synthetic result files, in the forms that load generators' exporters write them.

The figures are made up; the forms are those of vllm 0.33.0, aiperf 0.13.0, genai-perf 0.0.16,
guidellm 0.8.1 and inference-perf 0.7.0, cut down to what stands beside the figures read.
"""

from __future__ import annotations

from typing import Any

RUN: dict[str, float] = {
    "qps": 19.8,
    "offered": 20.0,
    "ttft": 0.120,
    "ttft_p50": 0.110,
    "ttft_p99": 0.260,
    "ttit": 0.012,
    "ttit_p99": 0.018,
    "e2e": 1.308,
    "input": 1000.0,
    "output": 100.0,
    "count": 2000,
    "failed": 3,
}


def run(**changes: float) -> dict[str, float]:
    return {**RUN, **changes}


def vllm(r: dict[str, float]) -> dict[str, Any]:
    return {
        "date": "20261125-101500",
        "backend": "vllm",
        "model_id": "Qwen/Qwen3-8B",
        "num_prompts": r["count"],
        "request_rate": r["offered"],
        "burstiness": 1.0,
        "max_concurrency": None,
        "duration": 101.0,
        "completed": r["count"],
        "failed": r["failed"],
        "total_input_tokens": r["input"] * r["count"],
        "total_output_tokens": r["output"] * r["count"],
        "request_throughput": r["qps"],
        "request_goodput": None,
        "output_throughput": r["qps"] * r["output"],
        "mean_ttft_ms": r["ttft"] * 1e3,
        "median_ttft_ms": r["ttft_p50"] * 1e3,
        "std_ttft_ms": 10.0,
        "p99_ttft_ms": r["ttft_p99"] * 1e3,
        "mean_tpot_ms": r["ttit"] * 1e3,
        "median_tpot_ms": r["ttit"] * 1e3,
        "p99_tpot_ms": r["ttit_p99"] * 1e3,
        "mean_itl_ms": r["ttit"] * 1e3,
        "mean_e2el_ms": r["e2e"] * 1e3,
    }


def aiperf(r: dict[str, float]) -> dict[str, Any]:
    def ms(mean: float, p50: float, p99: float) -> dict[str, Any]:
        return {"unit": "ms", "avg": mean * 1e3, "p50": p50 * 1e3, "p99": p99 * 1e3, "std": 1.0}

    return {
        "schema_version": "1.4",
        "aiperf_version": "0.13.0",
        "request_throughput": {"unit": "requests/sec", "avg": r["qps"]},
        "request_count": {"unit": "requests", "avg": r["count"]},
        "error_request_count": {"unit": "requests", "avg": r["failed"]},
        "request_latency": ms(r["e2e"], r["e2e"], r["e2e"]),
        "time_to_first_token": ms(r["ttft"], r["ttft_p50"], r["ttft_p99"]),
        "inter_token_latency": ms(r["ttit"], r["ttit"], r["ttit_p99"]),
        "output_sequence_length": {"unit": "tokens", "avg": r["output"]},
        "input_sequence_length": {"unit": "tokens", "avg": r["input"]},
        "input_config": {"endpoint": {"model_names": ["Qwen/Qwen3-8B"]}},
    }


def table(r: dict[str, float]) -> str:
    """The CSV of genai-perf and AIPerf; large numbers with separators, as genai-perf has them."""
    e2e, ttft, ttit = r["e2e"] * 1e3, r["ttft"] * 1e3, r["ttit"] * 1e3
    p50, p99 = r["ttft_p50"] * 1e3, r["ttft_p99"] * 1e3
    return f"""\
Metric,avg,min,max,p99,p50
Time To First Token (ms),{ttft:.2f},50.00,400.00,{p99:.2f},{p50:.2f}
Request Latency (ms),"{e2e:,.2f}",800.00,"2,000.00","{e2e:,.2f}","{e2e:,.2f}"
Inter Token Latency (ms),{ttit:.2f},8.00,20.00,{r["ttit_p99"] * 1e3:.2f},{ttit:.2f}
Output Sequence Length (tokens),{r["output"]:.2f},90,110,110,100
Input Sequence Length (tokens),"{r["input"]:,.2f}",900,"1,100","1,100","1,000"

Metric,Value
Request Throughput (per sec),{r["qps"]:.2f}
Request Count (count),{r["count"]:.2f}
Error Request Count (count),{r["failed"]:.2f}
"""


def guidellm(r: dict[str, float]) -> dict[str, Any]:
    def summary(mean: float, p50: float | None = None, p99: float | None = None) -> dict[str, Any]:
        one = {
            "mean": mean,
            "median": p50 or mean,
            "min": mean / 2,
            "max": mean * 3,
            "percentiles": {"p001": 0.0, "p50": p50 or mean, "p99": p99 or mean, "p999": mean * 3},
        }
        return {"successful": one, "errored": None}

    other = {"metrics": {}}
    return {
        "metadata": {"version": 1},
        "args": {"model": "Qwen/Qwen3-8B"},
        "benchmarks": [
            other,
            {
                "config": {"strategy": {"type_": "poisson", "rate": r["offered"]}},
                "metrics": {
                    "request_totals": {"successful": r["count"], "errored": r["failed"]},
                    "requests_per_second": summary(r["qps"]),
                    "request_concurrency": summary(r["qps"] * r["e2e"]),
                    "request_latency": summary(r["e2e"]),
                    "prompt_token_count": summary(r["input"]),
                    "output_token_count": summary(r["output"]),
                    "time_to_first_token_ms": summary(
                        r["ttft"] * 1e3, r["ttft_p50"] * 1e3, r["ttft_p99"] * 1e3
                    ),
                    "inter_token_latency_ms": summary(
                        r["ttit"] * 1e3, r["ttit"] * 1e3, r["ttit_p99"] * 1e3
                    ),
                },
            },
        ],
    }


def inference_perf(r: dict[str, float]) -> dict[str, Any]:
    def summary(mean: float, p50: float, p99: float) -> dict[str, float]:
        return {"mean": mean, "min": mean / 2, "max": mean * 3, "median": p50, "p99": p99}

    return {
        "benchmark_time_seconds": 101.0,
        "load_summary": {"count": r["count"], "requested_rate": r["offered"]},
        "successes": {
            "count": r["count"],
            "latency": {
                "request_latency": summary(r["e2e"], r["e2e"], r["e2e"]),
                "time_to_first_token": summary(r["ttft"], r["ttft_p50"], r["ttft_p99"]),
                "time_per_output_token": summary(r["ttit"], r["ttit"], r["ttit_p99"]),
                "inter_token_latency": None,
            },
            "throughput": {"requests_per_sec": r["qps"]},
            "prompt_tokens": {"total": 1, "per_request": {"mean": r["input"]}},
            "output_len": {"mean": r["output"]},
        },
        "failures": {"count": r["failed"]},
    }


JSON_FORMS = {
    "vllm bench serve": vllm,
    "AIPerf": aiperf,
    "GuideLLM": guidellm,
    "inference-perf": inference_perf,
}
