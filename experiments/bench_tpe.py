"""How far TPE's fleets are from the proven optimum, at a fiftieth of its evaluations.

    pip install cmaes                     # for the CMA-ES row, else left out
    python experiments/bench_tpe.py
    python experiments/bench_tpe.py --queries 8

Forty seeded queries (four models; devices, lengths, targets and demand drawn) are solved
exhaustively, by TPE as `planner solve --search tpe` runs it, and by what it is made of: the
order of its bounds alone, TPE and Optuna's other samplers without bounds, and random feasible
layouts. All take as many evaluations. Bounds are not counted among them: what they cost stands
beside what the sweep costs. Regret is the price of the fleet found over the optimum's.
Estimates are deterministic, so that samplers look them up in the exhaustive sweep instead of
making them again. Bars: 95 % of the queries within 1 % of the optimum at 2 % of its evaluations; no
infeasible layout proposed. `--first 1000` takes queries on which settings may be chosen.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from perfmodel.database import PerfStore
from perfmodel.layout import Layouts
from perfmodel.precision import Precision
from planner.candidates import Candidates, Funnel, Role
from planner.evaluated import choose
from planner.problem import Offer, resolve
from planner.query import Query
from planner.search import SearchResult, exhaustive, tpe
from planner.search.parts import parts_of
from planner.search.tpe import STARTUP_SHARE, Sampler, tpe_sampler
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


@dataclass
class Sweep:
    """The exhaustive sweep, read instead of the estimator; remembers what was read.

    Attributes:
        read: (key, row) in the order asked for.
    """

    space: Space
    swept: dict[Key, Candidates]
    read: list[tuple[Key, int]] = field(default_factory=list)

    def evaluate(
        self,
        role: Role,
        offer: Offer,
        precision: Precision,
        layouts: Layouts,
        funnel: Funnel | None = None,
        rows: Any = None,
    ) -> Candidates:
        """What `Space.evaluate` says of one layout."""
        key = (role, offer.device.name, str(precision))
        self.read += [(key, int(row)) for row in rows]
        return self.rows(key, rows)

    def rows(self, key: Key, rows: Any) -> Candidates:
        """Feasible configurations of some layouts."""
        found = self.swept[key]
        starts = np.searchsorted(found.layout, rows)
        ends = np.searchsorted(found.layout, rows, side="right")
        index = [np.arange(a, b) for a, b in zip(starts, ends, strict=True)]
        return found.take(np.concatenate(index) if index else np.zeros(0, dtype=np.intp))

    def price(self, read: Sequence[tuple[Key, int]]) -> float:
        """USD per hour of the cheapest fleet of the layouts read; infinite without one."""
        by_key: dict[Key, list[int]] = {}
        for key, row in read:
            by_key.setdefault(key, []).append(row)
        pools = [self.rows(key, np.array(sorted(rows))) for key, rows in by_key.items()]
        result = SearchResult(pools, [], len(read), False, "")
        served = choose(self.space.problem, result)
        return served[0][1].usd_per_hour if served else float("inf")


def infeasible(space: Space, read: Sequence[tuple[Key, int]], layouts: dict[Key, Layouts]) -> int:
    """How many of the layouts read break a constraint, each asked again."""
    from spaces.constraints import memory_constraint

    count = 0
    problem = space.problem
    for offer, precision in space.pairs():
        for role in space.roles:
            key = (role, offer.device.name, str(precision))
            rows = sorted({row for k, row in read if k == key})
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
    layouts: dict[Key, Layouts], counts: dict[Role, int], seed: int
) -> list[tuple[Key, int]]:
    """So many distinct feasible layouts of each role, drawn evenly."""
    rng = np.random.default_rng(seed)
    read: list[tuple[Key, int]] = []
    for role, count in counts.items():
        points = [
            (k, row) for k, found in layouts.items() if k[0] == role for row in range(len(found))
        ]
        read += [points[i] for i in rng.permutation(len(points))[:count]]
    return read


def prefix(read: Sequence[tuple[Key, int]], count: int) -> list[tuple[Key, int]]:
    """The first so many that each role read."""
    kept: list[tuple[Key, int]] = []
    for role in dict.fromkeys(key[0] for key, _ in read):
        own = [point for point in read if point[0][0] == role]
        kept += own[: max(count, 1)]
    return kept


def samplers() -> dict[str, Sampler]:
    """Optuna's samplers that draw without bounds, by the name of their row.

    Its Gaussian process needs PyTorch and minutes for as many trials; it is not among them.
    """
    import optuna

    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    found: dict[str, Sampler] = {
        "TPE without bounds": lambda seed, trials: tpe_sampler(seed, int(0.3 * trials)),
        "NSGA-II": lambda seed, trials: optuna.samplers.NSGAIISampler(
            population_size=max(min(50, trials // 6), 4), seed=seed
        ),
        "quasi-random": lambda seed, _: optuna.samplers.QMCSampler(
            seed=seed, scramble=True, warn_independent_sampling=False
        ),
    }
    if importlib.util.find_spec("cmaes"):
        found["CMA-ES"] = lambda seed, _: optuna.samplers.CmaEsSampler(
            seed=seed, warn_independent_sampling=False
        )
    return found


def compared(number: int, quick: bool = False) -> dict[str, Any]:
    """One query by all; its number alone where no fleet serves it."""
    store = PerfStore()
    started = time.process_time()
    space = Space(resolve(drawn_query(number)), store)
    result = exhaustive(space, lambda _what, _share: None)
    sweep_s = time.process_time() - started
    served = choose(space.problem, result)
    if not served:
        return {"query": number}
    best = served[0][1].usd_per_hour
    swept: dict[Key, Candidates] = {
        (c.role, c.offer.device.name, str(c.precision)): c for c in result.candidates
    }
    layouts = {key: c.layouts for key, c in swept.items()}
    columns = sum(len(space.axes(role)) for role in space.roles)
    trials = max(int(BUDGET * result.evaluated / columns), 1)

    started = time.process_time()
    fresh = Space(resolve(drawn_query(number)), store)
    bounds = {
        (part.role, part.offer.device.name, str(part.precision)): part.most_qps
        for role in fresh.roles
        for part in parts_of(fresh, role)
    }
    bounds_s = time.process_time() - started
    broken = 0
    for key, found in swept.items():
        actual = np.zeros(len(found.layouts))
        np.maximum.at(actual, found.layout, found.qps)
        broken += int((actual > bounds[key]).sum())

    def told(role: Role, offer: Offer, precision: Precision, _: Layouts) -> Any:
        return bounds[role, offer.device.name, str(precision)]

    def withheld(role: Role, offer: Offer, precision: Precision, of: Layouts) -> Any:
        return np.full(len(of), np.inf)

    def run(sampler: Sampler, startup: float, most_qps: Any) -> tuple[Sweep, SearchResult]:
        table = Sweep(space, swept)
        space.evaluate = table.evaluate  # type: ignore[method-assign]
        space.most_qps = most_qps  # type: ignore[method-assign]
        found = tpe(
            space,
            lambda _what, _share: None,
            seed=number,
            trials=trials,
            sampler=sampler,
            startup_share=startup,
        )
        return table, found

    table, sampled = run(tpe_sampler, STARTUP_SHARE, told)
    reads = {"TPE": table.read}
    reads["bounds alone"] = run(tpe_sampler, 1.0, told)[0].read
    for name, sampler in ({} if quick else samplers()).items():
        reads[name] = run(partial(_of_trials, sampler, trials), 0.0, withheld)[0].read
    reads["random"] = randomly(layouts, dict.fromkeys(space.roles, trials), number)
    regrets = {
        name: {
            str(share): table.price(prefix(read, round(share / BUDGET * trials))) / best - 1.0
            for share in SHARES
        }
        for name, read in reads.items()
    }
    price = table.price(table.read)
    qps = space.problem.qps
    assert qps is not None
    return {
        "query": number,
        "model": space.problem.model.name,
        "kind": served[0][1].kind,
        "usd_per_hour": best,
        "evaluated": result.evaluated,
        "trials": trials,
        "share_evaluated": sampled.evaluated / result.evaluated,
        "infeasible": sum(infeasible(space, read, layouts) for read in reads.values()),
        "gap": sampled.gap(qps, price, most=False),
        "bounds_broken": broken,
        "sweep_cpu_s": sweep_s,
        "bounds_cpu_s": bounds_s,
        "regret": regrets,
    }


def _of_trials(sampler: Sampler, trials: int, seed: int, _startup: int) -> Any:
    return sampler(seed, trials)


def main() -> None:
    """Compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="number of the first query")
    parser.add_argument("--quick", action="store_true", help="leave out the other samplers")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--runs", type=Path, help="keep each run here, and do none again")
    options = parser.parse_args()
    console = Console()
    runs: list[dict[str, Any]] = []
    known = {}
    if options.runs is not None and options.runs.exists():
        lines = map(json.loads, options.runs.read_text().splitlines())
        known = {line["query"]: line for line in lines}
    number = options.first
    with console.status("") as status, ProcessPoolExecutor(options.workers) as pool:
        while len(runs) < options.queries:
            numbers = range(number, number + options.queries - len(runs))
            number = numbers.stop
            waiting = [pool.submit(compared, n, options.quick) for n in numbers if n not in known]
            runs += [known[n] for n in numbers if known.get(n, {}).get("regret")]
            for done in as_completed(waiting):
                run = done.result()
                runs += [run] if "regret" in run else []
                if options.runs is not None:
                    with options.runs.open("a") as file:
                        file.write(json.dumps(run) + "\n")
                status.update(f"{len(runs)} of {options.queries} queries")
    runs.sort(key=lambda run: int(run["query"]))
    skipped = number - options.first - len(runs)
    table = Table(
        "search", "queries", "evaluations", "within 1 %", "median", "p95", "worst", "none", box=None
    )
    summary = []
    for name in dict.fromkeys(name for run in runs for name in run["regret"]):
        for share in SHARES:
            regret = np.array(
                [run["regret"][name][str(share)] for run in runs if name in run["regret"]]
            )
            line = {
                "search": name,
                "queries": len(regret),
                "share": share,
                "within": float((regret <= WITHIN).mean()),
                "median": float(np.quantile(regret, 0.5, method="higher")),
                "p95": float(np.quantile(regret, 0.95, method="higher")),
                "worst": float(regret[np.isfinite(regret)].max(initial=0.0)),
                "none": int(np.isinf(regret).sum()),
            }
            summary.append(line)
            table.add_row(
                name,
                str(len(regret)),
                f"{share:.2%}",
                f"{line['within']:.0%}",
                *(f"{line[q]:.1%}" for q in ("median", "p95", "worst")),
                str(line["none"]),
            )
    console.print(table)
    shares = [run["share_evaluated"] for run in runs]
    gaps = np.array([run["gap"] for run in runs])
    bounding = [run["bounds_cpu_s"] / run["sweep_cpu_s"] for run in runs]
    console.print(
        f"TPE's own bound: {(gaps == 0).mean():.0%} proven optimal, gap at most "
        f"{gaps.max():.1%}; bounds broken by {sum(run['bounds_broken'] for run in runs)} layouts; "
        f"bounds of all layouts take {np.median(bounding):.0%} of the sweep's processor time"
    )
    console.print(
        f"{len(runs)} queries ({skipped} more served by no fleet); TPE evaluated "
        f"{np.mean(shares):.2%} of the space, {max(shares):.2%} at most; "
        f"{sum(run['infeasible'] for run in runs)} infeasible layouts proposed"
    )
    if options.queries >= 40 and options.first == 0:
        path = RESULTS / "bench_tpe.json"
        path.write_text(
            json.dumps({"skipped": skipped, "summary": summary, "runs": runs}, indent=1) + "\n"
        )
        console.print(f"saved {path}")


if __name__ == "__main__":
    main()
