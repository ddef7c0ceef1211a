"""One fleet for 200 services on 7 device types: proven, in seconds, and what that saves.

    python experiments/bench_assignment.py
    python experiments/bench_assignment.py --seeds 2 --workers 1

Catalogs of `catalogs.py`, 20 seeds, three regions. Plans are solved once for each profile and
demand that occurs, by `planner batch` into `--results`, and are found there by the next run; each
service then has the options that `planner fleet` gives it. Bars: within 1 % of the optimum, proven,
in at most 60 s on two cores.

The inventory is what earlier years left: money spent on each device type of a region in random
shares (Dirichlet, all ones), scaled to the least size at which any assignment exists (to 2 %), and
then a tenth more (tight), or half as much again (less so). Nothing in it knows of the optimum.

HiGHS (what `planner fleet` uses) and CP-SAT solve the same problem. Beside them, heuristics that
share hosts as the assignment does, and see the same inventory:

- repaired: each service takes its cheapest plan. While an inventory is exceeded, that one
  service changes to another of its options which costs least per USD of missing hosts that
  it removes. It fails when no change of one service removes any.
- improved: after that, whatever single change saves most, until none saves.
- first come: the largest services first, each takes of its options that fit what is left the one
  that adds least. It fails when none fits.

The same services over a day, without inventories, as `planner fleet` schedules them: demand is a
cosine of a drawn ratio (2 to 8) around its region's peak, replicas follow in proportion, and on
demand costs 1.2 to 2 times as much as reserved. Bar: 1 % in 60 s. Beside it what the same plans
would cost by single devices: what whole hosts round up is what no relaxation sees.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from catalogs import DEVICES, REGIONS, catalog, profiles, services
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from planner import figures
from planner.catalog import (
    Catalog,
    Choices,
    Result,
    Settings,
    load_catalog,
    local_processes,
    open_choices,
    run_batch,
)
from planner.catalog.assignment import Option, Supply, assign
from planner.catalog.following import Following
from planner.catalog.hosts_over_time import Family, Rental
from planner.catalog.placing import pools_of
from planner.catalog.program import Program
from planner.catalog.scheduling import schedule

RESULTS = Path(__file__).parent / "results"
SEEDS = 20
SERVICES = 200
DAYS = 3
"""Seeds whose demand over a day is scheduled too."""

SLACKS = {"tight": 0.1, "less so": 0.5}
"""By how much inventories exceed the least that suffices."""

LIMIT_S = 60.0
BAR = 0.01
CLOSE = 1e-4
"""The gap at which `planner fleet` stops."""

HOURS = np.arange(24)
PEAK_HOUR = {"us": 20.0, "eu": 14.0, "asia": 6.0}

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Instance:
    """An assignment's problem, as arrays too.

    Attributes:
        owner: service of each option, (N,).
        filled: whole hosts that it fills, (N, K).
        shared: devices on shared hosts, (N, K).
    """

    supplies: tuple[Supply, ...]
    options: tuple[tuple[Option, ...], ...]
    owner: IntArray
    filled: IntArray
    shared: IntArray
    size: IntArray
    price: FloatArray
    inventory: IntArray

    @classmethod
    def of(cls, supplies: Sequence[Supply], options: Sequence[Sequence[Option]]) -> Instance:
        """The arrays of a problem."""
        flat = [option for known in options for option in known]
        most = np.iinfo(np.int64).max // 2
        return cls(
            tuple(supplies),
            tuple(tuple(known) for known in options),
            np.repeat(np.arange(len(options)), [len(known) for known in options]),
            np.array([o.hosts for o in flat]),
            np.array([o.devices for o in flat]),
            np.array([s.host_devices for s in supplies]),
            np.array([s.usd_per_host_hour for s in supplies]),
            np.array([most if s.inventory is None else s.inventory for s in supplies]),
        )

    def hosts(self, filled: IntArray, shared: IntArray) -> IntArray:
        """Hosts by supply that hold these."""
        return filled + -(-shared // self.size)

    def usd(self, hosts: IntArray) -> FloatArray:
        """Their price per hour."""
        return np.asarray(hosts @ self.price)

    def excess_usd(self, hosts: IntArray) -> FloatArray:
        """Price of what is missing."""
        return np.asarray(np.maximum(hosts - self.inventory, 0) @ self.price)

    def chosen_hosts(self, rows: IntArray) -> IntArray:
        """Hosts of a whole assignment, one row of the options per service."""
        return self.hosts(self.filled[rows].sum(axis=0), self.shared[rows].sum(axis=0))

    def after(self, rows: IntArray) -> IntArray:
        """Hosts after each single change, (N, K): option n instead of its service's."""
        filled, shared = self.filled[rows].sum(axis=0), self.shared[rows].sum(axis=0)
        today = rows[self.owner]
        return self.hosts(
            filled - self.filled[today] + self.filled, shared - self.shared[today] + self.shared
        )

    def alone(self) -> IntArray:
        """Each service's cheapest option on hosts of its own; of equal ones the first."""
        usd = self.usd(self.hosts(self.filled, self.shared))
        starts = np.searchsorted(self.owner, np.arange(len(self.options)))
        ends = [*starts[1:], len(self.owner)]
        return np.array([a + np.argmin(usd[a:b]) for a, b in zip(starts, ends, strict=True)])


def repaired(problem: Instance, rows: IntArray) -> IntArray | None:
    """Single changes, the cheapest per USD of missing hosts first, until nothing is missing."""
    rows = rows.copy()
    while (missing := float(problem.excess_usd(problem.chosen_hosts(rows)))) > 0:
        after = problem.after(rows)
        removed = missing - problem.excess_usd(after)
        added = problem.usd(after) - problem.usd(problem.chosen_hosts(rows))
        rate = np.where(removed > 1e-9, added / np.maximum(removed, 1e-9), np.inf)
        best = int(np.argmin(rate))
        if not np.isfinite(rate[best]):
            return None
        rows[problem.owner[best]] = best
    return rows


def improved(problem: Instance, rows: IntArray) -> IntArray:
    """Single changes that save and exceed nothing, the best first, until there is none."""
    rows = rows.copy()
    while True:
        after = problem.after(rows)
        usd = np.where(problem.excess_usd(after) > 0, np.inf, problem.usd(after))
        best = int(np.argmin(usd))
        if usd[best] >= problem.usd(problem.chosen_hosts(rows)) - 1e-9:
            return rows
        rows[problem.owner[best]] = best


def first_come(problem: Instance) -> IntArray | None:
    """The largest services first, each by what fits and adds least."""
    alone = problem.alone()
    order = np.argsort(-problem.usd(problem.hosts(problem.filled[alone], problem.shared[alone])))
    rows = np.zeros(len(alone), dtype=np.int64)
    filled, shared = np.zeros(len(problem.size), int), np.zeros(len(problem.size), int)
    for service in order:
        own = np.flatnonzero(problem.owner == service)
        hosts = problem.hosts(filled + problem.filled[own], shared + problem.shared[own])
        usd = np.where(problem.excess_usd(hosts) > 0, np.inf, problem.usd(hosts))
        best = own[int(np.argmin(usd))]
        if not np.isfinite(usd.min()):
            return None
        rows[service] = best
        filled, shared = filled + problem.filled[best], shared + problem.shared[best]
    return rows


@dataclass(frozen=True)
class Solved:
    """What a solver came to.

    Attributes:
        usd: None: nothing found.
        gap: to its own bound.
    """

    usd: float | None
    gap: float
    seconds: float


def by_highs(problem: Instance, gap: float) -> Solved:
    """As `planner fleet` does."""
    started = time.perf_counter()
    found = assign(problem.supplies, problem.options, gap=gap, limit_s=LIMIT_S)
    seconds = time.perf_counter() - started
    if found is None:
        return Solved(None, float("inf"), seconds)
    return Solved(found.usd_per_hour, found.gap, seconds)


def by_cp_sat(problem: Instance, gap: float, workers: int) -> Solved:
    """The same problem for CP-SAT, money in cents."""
    from ortools.sat.python import cp_model

    started = time.perf_counter()
    model = cp_model.CpModel()
    take = [model.new_bool_var(f"option{n}") for n in range(len(problem.owner))]
    for service in range(len(problem.options)):
        model.add_exactly_one(take[n] for n in np.flatnonzero(problem.owner == service))
    needed = problem.filled * problem.size + problem.shared
    hosts = []
    for k, supply in enumerate(problem.supplies):
        used = np.flatnonzero(needed[:, k])
        most = min(int(needed[:, k].sum()), int(problem.inventory[k]))
        count = model.new_int_var(0, most, supply.name)
        weights = [int(w) for w in needed[used, k]]
        demand = sum(w * take[n] for w, n in zip(weights, used, strict=True))
        model.add(demand <= int(problem.size[k]) * count)
        hosts.append(count)
    cents = [round(100 * float(p)) for p in problem.price]
    model.minimize(sum(c * h for c, h in zip(cents, hosts, strict=True)))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = workers
    solver.parameters.max_time_in_seconds = LIMIT_S
    solver.parameters.relative_gap_limit = gap
    status = solver.solve(model)
    seconds = time.perf_counter() - started
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solved(None, float("inf"), seconds)
    usd, bound = solver.objective_value / 100, solver.best_objective_bound / 100
    return Solved(usd, max(usd - bound, 0.0) / usd, seconds)


def inventories(
    supplies: Sequence[Supply], options: Sequence[Sequence[Option]], seed: int
) -> dict[str, list[Supply]]:
    """The supplies with inventories of random shares, for each of `SLACKS`."""
    free = assign(supplies, options, gap=BAR, limit_s=LIMIT_S)
    assert free is not None
    rng = np.random.default_rng([seed, 2])
    regions = [s.name.rpartition(" in ")[2] for s in supplies]
    price = np.array([s.usd_per_host_hour for s in supplies])
    spent = np.array(free.hosts) * price
    money = np.zeros(len(supplies))
    for region in dict.fromkeys(regions):
        mine = np.array([r == region for r in regions])
        money[mine] = spent[mine].sum() * rng.dirichlet(np.ones(mine.sum()))

    def scaled(scale: float) -> list[Supply]:
        counts = np.floor(scale * money / price).astype(int)
        return [replace(s, inventory=int(n)) for s, n in zip(supplies, counts, strict=True)]

    def suffices(scale: float) -> bool:
        return assign(scaled(scale), options, gap=1.0, limit_s=LIMIT_S / 4) is not None

    low, high = 0.0, 1.0
    while not suffices(high):
        low, high = high, high * 1.5
    while high - low > 0.02 * high:
        middle = (low + high) / 2.0
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return {name: scaled(high * (1.0 + slack)) for name, slack in SLACKS.items()}


def solved_plans(
    catalogs: Sequence[tuple[Catalog, list[tuple[int, float]]]], folder: Path, workers: int | None
) -> dict[tuple[int, float], Result]:
    """A result for each profile and demand that occurs."""
    distinct = {}
    for found, keys in catalogs:
        for service, key in zip(found.services, keys, strict=True):
            name = f"{key[0]:02d}_{key[1]:g}"
            distinct.setdefault(key, replace(service, name=name, region=""))
    with local_processes(workers) as (executor, count):
        results = run_batch(
            list(distinct.values()), folder, Settings(), executor, count, lambda _name, _share: None
        )
    for result in results:
        assert result.plan is not None, result.error
    return dict(zip(distinct, results, strict=True))


def drawn(seed: int, count: int) -> tuple[Catalog, list[tuple[int, float]]]:
    """The catalog of a seed, and the profile and demand of each of its services."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalog.yaml"
        path.write_text(yaml.safe_dump(catalog(count, seed)))
        found, errors = load_catalog(path)
    assert not errors
    return found, [(s.profile, s.qps) for s in services(count, seed, profiles())]


def over_a_day(choices: Choices, seed: int) -> tuple[list[Rental], list[list[Family]]]:
    """How hosts are had on demand, and every plan as its replicas follow its service's demand."""
    rng = np.random.default_rng([seed, 3])
    dearer = {device: rng.uniform(1.2, 2.0) for device in DEVICES}
    pairs = zip(choices.keys, choices.supplies, strict=True)
    rentals = [Rental(s.usd_per_host_hour * dearer[device]) for (device, _), s in pairs]
    services = []
    for service, fleets in zip(choices.served, choices.fleets, strict=True):
        ratio, peak = rng.uniform(2.0, 8.0), PEAK_HOUR[service.region] + rng.normal(0.0, 2.0)
        swing = (ratio - 1.0) / (ratio + 1.0)
        demand = (1.0 + swing * np.cos(2 * np.pi * (HOURS - peak) / 24)) / (1.0 + swing)
        families = []
        for fleet in fleets:
            pools = pools_of(fleet)
            replicas = np.ceil(np.outer(demand, [count for _, _, count in pools]) - 1e-9)
            following = Following(
                fleet, tuple((d, world) for d, world, _ in pools), replicas.astype(int), ()
            )
            families.append(following.taken(service.region, choices.keys, choices.offers, True))
        services.append(families)
    return rentals, services


def scheduled(seed: int, choices: Choices) -> dict[str, Any]:
    """One seed's schedule over a day."""
    rentals, services = over_a_day(choices, seed)
    found = schedule(choices.supplies, rentals, services, gap=BAR / 10, limit_s=LIMIT_S)
    assert found is not None
    chosen = [families[i] for families, i in zip(services, found.chosen, strict=True)]
    size = np.array([s.host_devices for s in choices.supplies])
    single = Program(
        [
            replace(s, host_devices=1, usd_per_host_hour=s.usd_per_host_hour / s.host_devices)
            for s in choices.supplies
        ],
        [Rental((r.usd_per_host_hour or 0.0) / n) for r, n in zip(rentals, size, strict=True)],
        [[Family(f.hosts * size, f.devices)] for f in chosen],
    )
    taken = single.used.sum(axis=1)
    return {
        "seed": seed,
        "families": sum(map(len, services)),
        "usd_per_hour": found.usd_per_hour,
        "gap": found.gap,
        "seconds": found.seconds,
        "by_single_devices_usd_per_hour": float(
            sum(single.prices(taken[:, None, k], k)[0] for k in range(single.kinds))
        ),
    }


def compared(seed: int, choices: Choices, workers: int) -> list[dict[str, Any]]:
    """One seed's rows, one for each of `SLACKS`."""
    free = Instance.of(choices.supplies, choices.options)
    about = {
        "seed": seed,
        "services": len(choices.served),
        "options": len(free.owner),
        "unlimited_usd_per_hour": by_highs(free, CLOSE).usd,
    }
    scarce = inventories(choices.supplies, choices.options, seed)
    return [
        {**about, "inventory": name, **solved(Instance.of(supplies, choices.options), workers)}
        for name, supplies in scarce.items()
    ]


def solved(problem: Instance, workers: int) -> dict[str, Any]:
    """Both solvers' answers, and the heuristics'."""
    alone = problem.alone()
    fixed = repaired(problem, alone)
    rows = {
        "repaired": fixed,
        "improved": None if fixed is None else improved(problem, fixed),
        "first come": first_come(problem),
    }
    usd = {
        name: None if row is None else float(problem.usd(problem.chosen_hosts(row)))
        for name, row in rows.items()
    }
    ours = by_highs(problem, CLOSE)
    assert ours.usd is not None
    return {
        "inventory_hosts": {s.name: s.inventory for s in problem.supplies},
        "alone_missing_usd_per_hour": float(problem.excess_usd(problem.chosen_hosts(alone))),
        "highs": asdict(ours),
        "highs_1_percent": asdict(by_highs(problem, BAR)),
        "cp_sat": asdict(by_cp_sat(problem, CLOSE, workers)),
        "cp_sat_1_percent": asdict(by_cp_sat(problem, BAR, workers)),
        "others_usd_per_hour": usd,
        "saved": {n: None if other is None else 1.0 - ours.usd / other for n, other in usd.items()},
    }


def report(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """A table over the seeds for each inventory, and what it comes to."""
    names = list(rows[0]["saved"])
    for inventory in SLACKS:
        own = [row for row in rows if row["inventory"] == inventory]
        table = Table("seed", title=f"inventory {inventory}", box=None)
        columns = ("USD/h", "gap", "s", "CP-SAT s", *names)
        for name in columns:
            table.add_column(name, justify="right")
        for row in own:
            table.add_row(
                str(row["seed"]),
                f"{row['highs']['usd']:,.0f}",
                f"{row['highs']['gap']:.3%}",
                f"{row['highs']['seconds']:.1f}",
                f"{row['cp_sat']['seconds']:.1f}",
                *("fails" if s is None else f"-{s:.1%}" for s in row["saved"].values()),
            )
        console.print(table)
        for name in names:
            saved = [row["saved"][name] for row in own if row["saved"][name] is not None]
            text = (
                f"saves {median(saved):.1%} (median), {max(saved):.1%} at most"
                if saved
                else "nothing to compare"
            )
            failed = len(own) - len(saved)
            console.print(f"against {name}: {text}; it fails on {failed} of {len(own)}")
    for solver in ("highs", "cp_sat"):
        for key, bar in ((solver, CLOSE), (f"{solver}_1_percent", BAR)):
            seconds = [row[key]["seconds"] for row in rows]
            gap = max(row[key]["gap"] for row in rows)
            console.print(
                f"{solver} to {bar:.2%}: {median(seconds):.2f} s (median), "
                f"{max(seconds):.1f} s at most, gap {gap:.3%} at most"
            )


def figure(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Savings by seed and heuristic, and both solvers' times."""
    import altair as alt

    names = list(rows[0]["saved"])
    saved = [
        {
            "against": name,
            "inventory": row["inventory"],
            "saved": 100 * row["saved"][name],
        }
        for row in rows
        for name in names
        if row["saved"][name] is not None
    ]
    solvers = {"HiGHS": "highs", "CP-SAT": "cp_sat"}
    times = [
        {"solver": solver, "inventory": row["inventory"], "seconds": row[key]["seconds"]}
        for row in rows
        for solver, key in solvers.items()
    ]
    colour = alt.Color("inventory:N", scale=figures.colours(list(SLACKS)), title="inventory")
    place = alt.YOffset("inventory:N")
    left = (
        alt.Chart(figures.data(saved))
        .mark_point(filled=True, size=50, opacity=0.6)
        .encode(
            x=alt.X("saved:Q", title="cost saved by the assignment, %"),
            y=alt.Y("against:N", sort=names, title=None),
            yOffset=place,
            color=colour,
        )
        .properties(width=300, height=150)
    )
    right = (
        alt.Chart(figures.data(times))
        .mark_point(filled=True, size=50, opacity=0.6)
        .encode(
            x=alt.X("seconds:Q", scale=alt.Scale(type="log"), title="s until proven to 0.01 %"),
            y=alt.Y("solver:N", sort=list(solvers), title=None),
            yOffset=place,
            color=colour,
        )
        .properties(width=260, height=150)
    )
    subtitle = [
        f"each point a seed: {rows[0]['services']} services, {len(DEVICES)} device types, "
        f"{len(REGIONS)} regions; a heuristic that fails has no point"
    ]
    chart = alt.hconcat(left, right)
    figures.write_figure(figures.titled(chart, "One fleet for all services", subtitle), path)


def main() -> None:
    """Run the benchmark and save it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--services", type=int, default=SERVICES)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--results", type=Path, default=Path(tempfile.gettempdir()) / "bench_assignment"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    console = Console()
    catalogs = [drawn(seed, options.services) for seed in range(options.seeds)]
    started = time.perf_counter()
    plans = solved_plans(catalogs, options.results, options.workers)
    solving_s = time.perf_counter() - started
    fresh = sum(result.computed for result in plans.values())
    console.print(
        f"{options.seeds} catalogs of {options.services} services, {len(DEVICES)} device types, "
        f"{len(REGIONS)} regions; {len(plans)} plans, {fresh} solved in {solving_s:.0f} s"
    )
    rows, days = [], []
    for seed, (found, keys) in enumerate(catalogs):
        results = [
            replace(plans[key], name=service.name)
            for service, key in zip(found.services, keys, strict=True)
        ]
        choices = open_choices(found, results)
        if seed < options.days:
            days.append(scheduled(seed, choices))
        rows += compared(seed, choices, options.workers)
    report(rows, console)
    for day in days:
        whole = 1.0 - day["by_single_devices_usd_per_hour"] / day["usd_per_hour"]
        console.print(
            f"over a day, seed {day['seed']}: {day['usd_per_hour']:,.0f} USD/h, gap "
            f"{day['gap']:.2%} in {day['seconds']:.0f} s; whole hosts round up {whole:.2%}"
        )
    saved = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "services": options.services,
        "plans": len(plans),
        "rows": rows,
        "over_a_day": days,
    }
    path = options.out / "bench_assignment.json"
    path.write_text(json.dumps(saved, indent=1) + "\n")
    figure(rows, options.out / "bench_assignment.svg")
    console.print(f"saved {path}")


if __name__ == "__main__":
    main()
