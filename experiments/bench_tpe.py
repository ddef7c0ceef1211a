"""How far TPE's fleets are from the proven optimum, at a fiftieth of its evaluations.

    python experiments/bench_tpe.py
    python experiments/bench_tpe.py --queries 8

Forty seeded queries (four models; devices, lengths, targets and demand drawn) are solved
exhaustively, by TPE and by random sampling of feasible layouts with as many evaluations.
Regret is the price of the fleet found over the optimum's. Estimates are deterministic, so
that both samplers look them up in the exhaustive sweep instead of making them again. Bars:
95 % of the queries within 1 % of the optimum at 2 % of its evaluations; no infeasible
layout proposed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from perfmodel.database import PerfStore
from perfmodel.layout import Layouts
from perfmodel.precision import Precision
from planner.candidates import Candidates, Funnel, Role
from planner.problem import Offer, resolve
from planner.query import Query
from planner.search import SearchResult, exhaustive, tpe
from planner.solve import choose
from planner.sweep import Space

RESULTS = Path(__file__).parent / "results"
MODELS = (
    "meta-llama/Llama-3.1-70B",
    "Qwen/Qwen3-235B-A22B",
    "deepseek-ai/DeepSeek-V3",
    "openai/gpt-oss-120b",
)
DEVICES = ("h100_sxm", "h200_sxm", "b200_sxm", "gb200_nvl72", "a100_sxm")
BUDGET = 0.02
SHARES = (0.0025, 0.005, 0.01, 0.02)
WITHIN = 0.01
Key = tuple[Role, str, str]


def drawn_query(number: int) -> Query:
    """The query of a number, the same on every machine."""
    rng = np.random.default_rng(number)
    count = int(rng.integers(1, 4))
    devices = [str(d) for d in rng.permutation(DEVICES)[:count]]
    return Query.model_validate(
        {
            "model": MODELS[number % len(MODELS)],
            "workload": {
                "qps": float(np.round(np.exp(rng.uniform(np.log(20), np.log(400))), 1)),
                "input_tokens": int(rng.choice([500, 1500, 4000, 8000])),
                "output_tokens": int(rng.choice([100, 300, 1000])),
            },
            "slo": {
                "ttft": f"{rng.choice([1000, 2000, 4000])}ms",
                "ttit": f"{rng.choice([30, 50, 100])}ms",
            },
            "devices": devices,
            "search": {"max_replica_devices": 256},
        }
    )


@dataclass(frozen=True)
class Read:
    """A layout that was looked at, with some columns of its axes."""

    key: Key
    row: int
    columns: tuple[int, ...]


@dataclass
class Sweep:
    """The exhaustive sweep, read instead of the estimator; remembers what was read.

    Attributes:
        read: in the order asked for.
    """

    space: Space
    swept: dict[Key, Candidates]
    read: list[Read] = field(default_factory=list)

    def evaluate(
        self,
        role: Role,
        offer: Offer,
        precision: Precision,
        layouts: Layouts,
        funnel: Funnel | None = None,
        rows: Any = None,
        columns: Any = None,
    ) -> Candidates:
        """What `Space.evaluate` says of one layout."""
        (row,) = rows
        asked = range(len(self.space.axes(role))) if columns is None else columns
        self.read.append(
            Read((role, offer.device.name, str(precision)), int(row), tuple(map(int, asked)))
        )
        return self.found([self.read[-1]])

    def found(self, read: Sequence[Read]) -> Candidates:
        """Feasible configurations among what was read of one key."""
        swept = self.swept[read[0].key]
        index = []
        for one in read:
            start, end = np.searchsorted(swept.layout, [one.row, one.row + 1])
            index.append(start + np.flatnonzero(np.isin(swept.column[start:end], one.columns)))
        return swept.take(np.unique(np.concatenate(index)))

    def price(self, read: Sequence[Read]) -> float:
        """USD per hour of the cheapest fleet of what was read; infinite without one."""
        keys = dict.fromkeys(one.key for one in read)
        pools = [self.found([one for one in read if one.key == key]) for key in keys]
        result = SearchResult(pools, [], len(read), False, "")
        served = choose(self.space.problem, result)
        return served[0][1].usd_per_hour if served else float("inf")


def infeasible(space: Space, read: Sequence[Read], layouts: dict[Key, Layouts]) -> int:
    """How many of the layouts read break a constraint, each asked again."""
    from spaces.constraints import memory_constraint

    count = 0
    problem = space.problem
    for offer, precision in space.pairs():
        for role in space.roles:
            key = (role, offer.device.name, str(precision))
            rows = sorted({one.row for one in read if one.key == key})
            if not rows:
                continue
            drawn = layouts[key][np.array(rows)]
            constraints = [
                *space.constraints,
                *space.device_constraints(offer),
                memory_constraint(
                    problem.model, [(offer.device, precision)], problem.engine, problem.traffic
                ),
            ]
            ok = np.all([c.of(drawn) for c in constraints], axis=0)
            ok &= drawn.stage_world == drawn.tp_f * drawn.ep_f * drawn.dp_f
            count += int((~ok).sum())
    return count


def randomly(
    layouts: dict[Key, Layouts], columns: dict[Role, int], cells: dict[Role, int], seed: int
) -> list[Read]:
    """Distinct feasible layouts of each role, drawn evenly, with all columns of their axes."""
    rng = np.random.default_rng(seed)
    read: list[Read] = []
    for role, count in cells.items():
        points = [
            (k, row) for k, found in layouts.items() if k[0] == role for row in range(len(found))
        ]
        chosen = rng.permutation(len(points))[: max(count // columns[role], 1)]
        read += [Read(*points[i], tuple(range(columns[role]))) for i in chosen]
    return read


def prefix(read: Sequence[Read], share: float) -> list[Read]:
    """The first share of the configurations that each role read."""
    kept: list[Read] = []
    for role in dict.fromkeys(one.key[0] for one in read):
        own = [one for one in read if one.key[0] == role]
        cells = np.cumsum([len(one.columns) for one in own])
        kept += own[: max(int(np.searchsorted(cells, share * cells[-1], side="right")), 1)]
    return kept


def compared(number: int, store: PerfStore) -> dict[str, Any] | None:
    """One query by all three; None where no fleet serves it."""
    space = Space(resolve(drawn_query(number)), store)
    result = exhaustive(space, lambda _what, _share: None)
    served = choose(space.problem, result)
    if not served:
        return None
    best = served[0][1].usd_per_hour
    swept: dict[Key, Candidates] = {
        (c.role, c.offer.device.name, str(c.precision)): c for c in result.candidates
    }
    layouts = {key: c.layouts for key, c in swept.items()}
    columns = {role: len(space.axes(role)) for role in space.roles}
    trials = int(BUDGET * result.evaluated / sum(columns.values()))
    table = Sweep(space, swept)
    space.evaluate = table.evaluate  # type: ignore[method-assign]
    sampled = tpe(space, lambda _what, _share: None, seed=number, trials=trials)
    cells = {
        role: sum(len(one.columns) for one in table.read if one.key[0] == role)
        for role in space.roles
    }
    chance = randomly(layouts, columns, cells, number)
    regrets = {
        name: {
            str(share): table.price(prefix(read, share / BUDGET)) / best - 1.0 for share in SHARES
        }
        for name, read in (("tpe", table.read), ("random", chance))
    }
    return {
        "query": number,
        "model": space.problem.model.name,
        "kind": served[0][1].kind,
        "usd_per_hour": best,
        "evaluated": result.evaluated,
        "trials": trials,
        "share_evaluated": sampled.evaluated / result.evaluated,
        "infeasible": infeasible(space, table.read, layouts),
        "regret": regrets,
    }


def main() -> None:
    """Compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=40)
    options = parser.parse_args()
    console, store = Console(), PerfStore()
    runs: list[dict[str, Any]] = []
    number = 0
    with console.status("") as status:
        while len(runs) < options.queries:
            run = compared(number, store)
            number += 1
            if run is not None:
                runs.append(run)
            status.update(f"{len(runs)} of {options.queries} queries")
    skipped = number - len(runs)
    table = Table("search", "evaluations", "within 1 %", "median", "p95", "worst", "none", box=None)
    summary = []
    for name in ("tpe", "random"):
        for share in SHARES:
            regret = np.array([run["regret"][name][str(share)] for run in runs])
            line = {
                "search": name,
                "share": share,
                "within": float((regret <= WITHIN).mean()),
                "median": float(np.quantile(regret, 0.5, method="higher")),
                "p95": float(np.quantile(regret, 0.95, method="higher")),
                "worst": float(regret[np.isfinite(regret)].max()),
                "none": int(np.isinf(regret).sum()),
            }
            summary.append(line)
            table.add_row(
                name,
                f"{share:.2%}",
                f"{line['within']:.0%}",
                *(f"{line[q]:.1%}" for q in ("median", "p95", "worst")),
                str(line["none"]),
            )
    console.print(table)
    shares = [run["share_evaluated"] for run in runs]
    console.print(
        f"{len(runs)} queries ({skipped} more served by no fleet); TPE evaluated "
        f"{np.mean(shares):.2%} of the space, {max(shares):.2%} at most; "
        f"{sum(run['infeasible'] for run in runs)} infeasible layouts proposed"
    )
    if options.queries >= 40:
        path = RESULTS / "bench_tpe.json"
        path.write_text(
            json.dumps({"skipped": skipped, "summary": summary, "runs": runs}, indent=1) + "\n"
        )
        console.print(f"saved {path}")


if __name__ == "__main__":
    main()
