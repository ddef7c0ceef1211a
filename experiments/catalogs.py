"""Realistic catalogs of services, seeded: from one service to a thousand.

    python experiments/catalogs.py --services 200 --seed 3 --out catalog.yaml
    planner batch catalog.yaml --out results && planner fleet catalog.yaml --results results

What is drawn from what. The six service classes and the ranges of their lengths and targets
are the reference's ("these are just retrospective examples"); all numbers below that it does
not give are choices, made to be plausible, not to reach a result:

- A class has a few profiles: a model of its sizes, lengths (medians drawn evenly over the
  range's lower two thirds on a log scale, the 99th percentile at its end), a TTFT target of its
  range, its TTIT target. Profiles have a seed of their own, so that catalogs of different seeds
  ask about the same ones, and a few dozen evaluated spaces answer any number of catalogs.
- A service draws its class (by `share`), one of its profiles evenly, a region, and a demand: its
  class's median times a heavy-tailed factor (Pareto, index 1.1, at most 300; the largest tenth
  of services make up most of the demand), rounded to ten values per decade, as forecasts are.
- The first service of a profile carries its query; the others are `like` it, and differ in demand
  and region.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

DEVICES = ("a100_sxm", "b200_sxm", "gb200_nvl72", "h100_sxm", "h200_sxm", "l40s", "mi300x")
REGIONS = {"us": 0.5, "eu": 0.3, "asia": 0.2}
PROFILES = 3
"""Of each class."""

PARETO_INDEX = 1.1
MOST_FACTOR = 300.0
"""Demand of the largest service over its class's median, about."""

PER_DECADE = 10


@dataclass(frozen=True)
class ServiceClass:
    """A row of the reference's table, and what it leaves open.

    Attributes:
        models: of its sizes.
        input_tokens, output_tokens: least median, and the 99th percentile.
        ttft_s: range of the target; None: offline.
        ttit_s: target.
        share: of all services.
        median_qps: demand of a service in the middle.
        arrivals: paced jobs, or people.
        images: in each prompt.
    """

    name: str
    models: tuple[str, ...]
    input_tokens: tuple[float, float]
    output_tokens: tuple[float, float]
    ttft_s: tuple[float, float] | None
    ttit_s: float | None
    share: float
    median_qps: float
    arrivals: str = "poisson"
    images: int = 0

    @property
    def online(self) -> bool:
        """Whether people wait for it: a TTFT target of less than a second."""
        return self.ttft_s is not None and self.ttft_s[1] < 1.0


CLASSES = (
    ServiceClass(
        "text_agent",
        ("meta-llama/Llama-3.1-70B", "Qwen/Qwen3-235B-A22B-FP8", "openai/gpt-oss-120b"),
        (500, 2000),
        (100, 500),
        (0.2, 0.5),
        0.04,
        share=0.3,
        median_qps=10,
    ),
    ServiceClass(
        "multimodal_agent",
        (
            "meta-llama/Llama-4-Scout-17B-16E-Instruct",
            "Qwen/Qwen3-VL-8B-Instruct",
            "Qwen/Qwen3-VL-235B-A22B-Instruct",
        ),
        (500, 2000),
        (100, 500),
        (0.3, 0.8),
        0.04,
        share=0.15,
        median_qps=5,
        images=1,
    ),
    ServiceClass(
        "realtime_agent",
        ("Qwen/Qwen3-32B-FP8", "openai/gpt-oss-20b", "meta-llama/Llama-3.1-70B"),
        (25, 50),
        (50, 100),
        (0.15, 0.2),
        0.03,
        share=0.15,
        median_qps=30,
    ),
    ServiceClass(
        "safety",
        ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B"),
        (500, 8000),
        (4, 16),
        (0.15, 0.2),
        0.01,
        share=0.2,
        median_qps=40,
    ),
    ServiceClass(
        "data_augmentation",
        ("meta-llama/Llama-3.1-405B", "Qwen/Qwen3-235B-A22B-FP8", "openai/gpt-oss-120b"),
        (1000, 8000),
        (200, 1000),
        (2.0, 5.0),
        0.3,
        share=0.1,
        median_qps=4,
        arrivals="steady",
    ),
    ServiceClass(
        "data_scoring",
        ("Qwen/Qwen3-235B-A22B-FP8", "openai/gpt-oss-120b"),
        (4000, 32000),
        (2, 8),
        None,
        None,
        share=0.1,
        median_qps=4,
        arrivals="steady",
    ),
)


@dataclass(frozen=True)
class Profile:
    """What services of a class have in common: a query without demand and devices."""

    of: ServiceClass
    query: dict[str, Any]

    @property
    def name(self) -> str:
        """Class and model."""
        return f"{self.of.name}, {str(self.query['model']).split('/')[-1]}"


def profiles(count: int = PROFILES, seed: int = 0) -> list[Profile]:
    """So many profiles of each class, the same for every catalog."""
    rng = np.random.default_rng([seed, 0])
    return [_profile(kind, i, rng) for kind in CLASSES for i in range(count)]


def _profile(kind: ServiceClass, i: int, rng: np.random.Generator) -> Profile:
    model = kind.models[i % len(kind.models)]
    workload: dict[str, Any] = {
        "input_tokens": _lengths(kind.input_tokens, rng),
        "output_tokens": _lengths(kind.output_tokens, rng),
        "arrivals": kind.arrivals,
    }
    query: dict[str, Any] = {"model": model, "workload": workload}
    if kind.images:
        workload["images"] = {"per_request": kind.images, "width": 640, "height": 480}
        query["encoder"] = "colocated"
    slo = {}
    if kind.ttft_s is not None:
        slo["ttft"] = f"{round(1000 * rng.uniform(*kind.ttft_s), -1):.0f}ms"
    if kind.ttit_s is not None:
        slo["ttit"] = f"{1000 * kind.ttit_s:.0f}ms"
    if slo:
        query["slo"] = slo
    if "FP8" not in model and "gpt-oss" not in model:  # those bring their formats
        query["precision"] = {"weights": "fp8", "kv": "fp8"}
    return Profile(kind, query)


def _lengths(limits: tuple[float, float], rng: np.random.Generator) -> dict[str, int]:
    """Percentiles: a median in the lower two thirds, and the limit."""
    least, most = limits
    median = float(least * (most / least) ** rng.uniform(0.0, 2.0 / 3.0))
    return {"p50": round(median), "p99": round(most)}


def demand_qps(kind: ServiceClass, rng: np.random.Generator) -> float:
    """Heavy-tailed, rounded to ten values per decade."""
    # Of a Pareto distribution from 1 on the median is 2 to the power of 1 / index.
    factor = (rng.pareto(PARETO_INDEX) + 1.0) / 2.0 ** (1.0 / PARETO_INDEX)
    exact = kind.median_qps * min(factor, MOST_FACTOR)
    step = round(np.log10(exact) * PER_DECADE)
    return float(f"{10.0 ** (step / PER_DECADE):.2g}")


@dataclass(frozen=True)
class Drawn:
    """A service of a catalog."""

    name: str
    profile: int
    region: str
    qps: float


def services(count: int, seed: int, known: Sequence[Profile]) -> list[Drawn]:
    """So many services, drawn from these profiles."""
    rng = np.random.default_rng([seed, 1])
    share = np.array([kind.share for kind in CLASSES])
    found = []
    for i in range(count):
        kind = CLASSES[rng.choice(len(CLASSES), p=share / share.sum())]
        own = [j for j, profile in enumerate(known) if profile.of is kind]
        profile = own[rng.integers(len(own))]
        region = list(REGIONS)[rng.choice(len(REGIONS), p=list(REGIONS.values()))]
        found.append(Drawn(f"{kind.name}_{i:03d}", profile, region, demand_qps(kind, rng)))
    return found


def catalog(
    count: int,
    seed: int = 0,
    *,
    devices: Sequence[str] = DEVICES,
    max_replica_devices: int = 16,
    headroom: float = 0.1,
    inventory: dict[str, dict[str, int]] | None = None,
) -> dict[str, Any]:
    """A catalog file's fields."""
    known = profiles()
    first: dict[int, str] = {}
    entries: dict[str, Any] = {}
    for service in services(count, seed, known):
        if service.profile in first:
            entry: dict[str, Any] = {"like": first[service.profile]}
            entry["workload"] = {"qps": service.qps}
        else:
            first[service.profile] = service.name
            entry = dict(known[service.profile].query)
            entry["workload"] = {"qps": service.qps, **entry["workload"]}
        entries[service.name] = {**entry, "region": service.region}
    fields: dict[str, Any] = {
        "defaults": {
            "devices": list(devices),
            "search": {"max_replica_devices": max_replica_devices},
        },
        "services": entries,
        "headroom": headroom,
    }
    return fields if inventory is None else {**fields, "inventory": inventory}


def main() -> None:
    """Write a catalog."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--devices", nargs="+", default=list(DEVICES))
    parser.add_argument("--out", type=Path, help="a file; standard output if not given")
    options = parser.parse_args()
    if not 1 <= options.services <= 1000:
        parser.error("--services: expected 1 to 1,000")
    fields = catalog(options.services, options.seed, devices=options.devices)
    arguments = f"--services {options.services} --seed {options.seed}"
    text = f"# Drawn by experiments/catalogs.py {arguments}: realistic, not real.\n"
    text += yaml.safe_dump(fields, sort_keys=False, width=100)
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
