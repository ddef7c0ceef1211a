"""The cheapest mix of device types, beside Mélange's public solver.

    python experiments/melange.py --peer /path/to/melange-release
    python experiments/melange.py --quick                            # without the peer

The peer's own example, and seeded instances: request-size buckets by device types, each with the
most requests/s of that size that one replica serves under a TPOT target by our estimator; prices
drawn from the dated list (of half the instances level: such that types are worth about the same),
rates and distributions of sizes from a seeded generator. Every answer of ours is checked in exact
arithmetic. Bars: never above the peer's cost, proven optimal.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from perfmodel.database import PerfStore
from planner.candidates import Funnel
from planner.melange import Mix, alone_usd_per_hour, cheapest_mix, read_melange
from planner.prices import listed_prices
from planner.problem import resolve
from planner.query import Query
from planner.sweep import Space

FloatArray = NDArray[np.float64]

HERE = Path(__file__).parent
EXAMPLE = Path("melange") / "config" / "example.json"
DEVICES = ("l40s", "a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm")
INPUTS = (50, 200, 800, 2000, 8000, 16000)
OUTPUTS = (25, 100, 400, 1000, 2000)
ANCHOR = "h100_sxm"
SLICES = (1, 4, 8)
SMALLEST_SHARE = 0.002
"""Buckets with a smaller share of the requests are empty."""

NEVER = 1000
"""Devices that a slice keeps busy, in the peer's input, where they can't serve it: it divides by
throughputs, which therefore must not be 0, nor so small that its solver loses digits."""


@dataclass(frozen=True)
class Setting:
    """Whose throughputs a table holds: one replica of so many devices, under a TPOT target."""

    model: str
    devices_per_replica: int
    tpot: str
    most_qps: float


SETTINGS = (
    Setting("Qwen/Qwen3-8B", 1, "40ms", 500.0),
    Setting("Qwen/Qwen3-8B", 1, "120ms", 500.0),
    Setting("meta-llama/Llama-3.1-70B", 4, "40ms", 100.0),
    Setting("meta-llama/Llama-3.1-70B", 4, "120ms", 100.0),
)


def throughputs(setting: Setting, store: PerfStore) -> dict[str, FloatArray]:
    """Requests/s of each bucket that one replica serves at most, by device: (R, C)."""
    tables = {name: np.zeros((len(INPUTS), len(OUTPUTS))) for name in DEVICES}
    for i, input_tokens in enumerate(INPUTS):
        for j, output_tokens in enumerate(OUTPUTS):
            query = Query.model_validate(
                {
                    "model": setting.model,
                    "workload": {
                        "qps": 1,
                        "input_tokens": input_tokens,
                        "output_tokens": output_tokens,
                        "arrivals": "steady",
                    },
                    "slo": {"ttit": setting.tpot},
                    "devices": list(DEVICES),
                    "runtime": "continuous",
                    "search": {"max_replica_devices": setting.devices_per_replica},
                }
            )
            space = Space(resolve(query), store)
            for offer, precision in space.pairs():
                funnel = Funnel("continuous", offer.device.name, str(precision))
                layouts = space.feasible_layouts("continuous", offer, precision, funnel)
                whole = layouts[layouts.world == setting.devices_per_replica]
                found = space.evaluate("continuous", offer, precision, whole)
                table = tables[offer.device.name]
                table[i, j] = max(table[i, j], found.qps.max(initial=0.0))
    return tables


def list_prices() -> dict[str, list[float]]:
    """On-demand USD per device-hour by device, of all providers listed."""
    listed = listed_prices()
    return {
        name: [e["usd_per_device_hour"] for e in listed[name] if e["kind"] == "on-demand"]
        for name in DEVICES
    }


def level_prices(tables: dict[str, FloatArray], rng: np.random.Generator) -> dict[str, float]:
    """Prices at which all types are worth about the same, so that request sizes decide."""
    served = np.all([table > 0 for table in tables.values() if table.any()], axis=0)
    worth = {n: float(np.exp(np.log(t[served]).mean())) for n, t in tables.items() if t.any()}
    scale = min(list_prices()[ANCHOR]) / worth[ANCHOR]
    return {n: scale * each * float(rng.lognormal(0.0, 0.1)) for n, each in worth.items()}


def instance(
    seed: int, setting: Setting, tables: dict[str, FloatArray], level: bool
) -> dict[str, Any]:
    """Mélange's input with seeded prices, sizes and rate."""
    rng = np.random.default_rng(seed)
    listed = {name: float(rng.choice(prices)) for name, prices in list_prices().items()}
    prices = listed | level_prices(tables, rng) if level else listed

    def lengths(tokens: tuple[int, ...]) -> FloatArray:
        mean, spread = rng.uniform(*np.log(tokens)[[0, -1]]), rng.uniform(0.5, 1.5)
        return np.exp(-0.5 * ((np.log(tokens) - mean) / spread) ** 2)

    inputs, outputs = lengths(INPUTS), lengths(OUTPUTS)
    shares = np.outer(inputs, outputs)
    shares *= rng.lognormal(0.0, 0.5, shares.shape)
    served = np.any([table > 0 for table in tables.values()], axis=0)
    shares = np.where(served, shares / shares.sum(), 0.0)
    shares[shares < SMALLEST_SHARE] = 0.0
    return {
        "gpu_info": {
            name: {
                "cost": round(prices[name] * setting.devices_per_replica, 3),
                "tputs": tables[name].tolist(),
            }
            for name in DEVICES
        },
        "workload_distribution": (shares / shares.sum()).tolist(),
        "total_request_rate": round(setting.most_qps * float(np.exp(rng.uniform(-4.0, 0.0))), 3),
        "slice_factor": int(rng.choice(SLICES)),
    }


def ours(data: dict[str, Any], limit_s: float) -> Mix:
    """Our answer to an input, read as the command reads it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "instance.json"
        path.write_text(json.dumps(data))
        return cheapest_mix(read_melange(path), limit_s=limit_s)


def check(data: dict[str, Any], mix: Mix) -> None:
    """Whether a mix serves an input: whole slices that add up, on devices that suffice.

    Exact but for what the solver takes for satisfied, a millionth of a device.

    Raises:
        AssertionError: it does not.
    """
    names = [device.name for device in mix.problem.devices]
    counts = dict(zip(names, mix.counts.tolist(), strict=True))
    load = {name: Fraction(0) for name in names}
    slices = data["slice_factor"]
    served = {place: who for place, _, who in mix.served_by()}
    for i, row in enumerate(data["workload_distribution"]):
        for j, share in enumerate(row):
            if not share:
                continue
            parts = {name: round(part * slices) for name, part in served[i, j].items()}
            assert sum(parts.values()) == slices
            for name, part in parts.items():
                rate = Fraction(share) * Fraction(data["total_request_rate"]) * part / slices
                load[name] += rate / Fraction(data["gpu_info"][name]["tputs"][i][j])
    for name in names:
        assert load[name] <= counts[name] + Fraction(1, 10**6), (name, float(load[name]))
    cost = sum(counts[name] * data["gpu_info"][name]["cost"] for name in names)
    assert abs(cost - mix.usd_per_hour) <= 1e-9 * max(cost, 1.0)


def peers(data: dict[str, Any], checkout: Path, limit_s: float) -> dict[str, Any]:
    """The peer's counts, cost and seconds; `found` is None where it gave no answer in time."""
    rates = np.array(data["workload_distribution"]) * data["total_request_rate"]
    least = np.where(rates > 0, rates / data["slice_factor"] / NEVER, 1.0)
    devices = {
        name: {
            "cost": entry["cost"],
            "tputs": np.where(np.array(entry["tputs"]) > 0, entry["tputs"], least).tolist(),
        }
        for name, entry in data["gpu_info"].items()
    }
    command = [sys.executable, str(HERE / "peer_melange.py"), str(checkout)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(json.dumps({**data, "gpu_info": devices}), timeout=limit_s)
    except subprocess.TimeoutExpired:
        # Its solver is a process of its own.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return {"found": None, "seconds": limit_s}
    if process.returncode:
        raise SystemExit(f"the peer failed: exit status {process.returncode}")
    answer: dict[str, Any] = json.loads(said)
    return answer


def compare(
    name: str, data: dict[str, Any], checkout: Path | None, limit_s: float
) -> dict[str, Any]:
    """One input, both answers."""
    mix = ours(data, limit_s)
    check(data, mix)
    one = {**data, "slice_factor": None}
    shares = np.array(data["workload_distribution"])
    row: dict[str, Any] = {
        "name": name,
        "qps": data["total_request_rate"],
        "buckets": int((shares > 0).sum()),
        "slices": data["slice_factor"],
        "usd_per_hour": mix.usd_per_hour,
        "gap": mix.gap,
        "seconds": mix.seconds,
        "one_type_usd_per_hour": float(alone_usd_per_hour(mix.problem).min()),
        "counts": {d.name: int(n) for d, n in zip(mix.problem.devices, mix.counts, strict=True)},
        "split_at_will_usd_per_hour": ours(one, limit_s).usd_per_hour,
    }
    if checkout is not None:
        answer = peers(data, checkout, limit_s)
        row["peer_usd_per_hour"] = answer["found"] and answer["found"]["cost"]
        row["peer_seconds"] = answer["seconds"]
        row["peer_counts"] = answer["found"]
    return row


def print_rows(rows: list[dict[str, Any]], console: Console) -> None:
    """A line per input."""
    table = Table("input", box=None, pad_edge=False)
    for name in ("req/s", "buckets", "slices", "USD/h", "gap", "s", "peer", "peer s"):
        table.add_column(name, justify="right")
    for row in rows:
        cost = row.get("peer_usd_per_hour")
        table.add_row(
            row["name"],
            f"{row['qps']:,.1f}",
            str(row["buckets"]),
            str(row["slices"]),
            f"{row['usd_per_hour']:,.2f}",
            f"{row['gap']:.2%}" if row["gap"] else "proven",
            f"{row['seconds']:.2f}",
            "-" if cost is None else f"{cost:,.2f}",
            f"{row['peer_seconds']:.2f}" if "peer_seconds" in row else "-",
        )
    console.print(table)


def main() -> None:
    """Compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="a checkout of the peer's repository")
    parser.add_argument("--instances", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each answer")
    parser.add_argument("--quick", action="store_true", help="one table, four instances, unsaved")
    options = parser.parse_args()
    console, store = Console(), PerfStore()
    rows = []
    if options.peer is not None:
        example = json.loads((options.peer / EXAMPLE).read_text())
        rows.append(compare("its example", example, options.peer, options.seconds))
    settings = SETTINGS[:1] if options.quick else SETTINGS
    count = 4 if options.quick else options.instances
    tables = [throughputs(setting, store) for setting in settings]
    for seed in range(count):
        which = seed % len(settings)
        setting = settings[which]
        level = seed % (2 * len(settings)) >= len(settings)
        data = instance(seed, setting, tables[which], level)
        name = f"{seed}{'*' * level}: {setting.model.rsplit('-', 1)[-1]} {setting.tpot}"
        rows.append(compare(name, data, options.peer, options.seconds))
    print_rows(rows, console)
    console.print("*: level prices, at which types are worth about the same")
    for what, cheap, dear in (
        ("less than the cheapest single type", "usd_per_hour", "one_type_usd_per_hour"),
        ("less yet if split at will", "split_at_will_usd_per_hour", "usd_per_hour"),
    ):
        less = [max(1.0 - row[cheap] / row[dear], 0.0) for row in rows[-count:]]
        console.print(f"{what}: {np.median(less):.1%} in the median, {max(less):.1%} at most")
    above = [
        row["name"]
        for row in rows
        if row.get("peer_usd_per_hour") and row["usd_per_hour"] > row["peer_usd_per_hour"] + 1e-6
    ]
    unproven = [row["name"] for row in rows if row["gap"]]
    console.print(f"above the peer's cost: {', '.join(above) or 'none'}")
    console.print(f"not proven: {', '.join(unproven) or 'none'}; all answers checked feasible")
    if not options.quick:
        path = HERE / "results" / "melange.json"
        named = [
            {
                "model": setting.model,
                "devices_per_replica": setting.devices_per_replica,
                "tpot": setting.tpot,
                "qps": {name: table.round(4).tolist() for name, table in found.items()},
            }
            for setting, found in zip(settings, tables, strict=True)
        ]
        saved = {"inputs": INPUTS, "outputs": OUTPUTS, "rows": rows, "tables": named}
        path.write_text(json.dumps(saved, indent=1) + "\n")
        console.print(f"saved results/{path.name}")
    if above:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
