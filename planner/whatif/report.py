"""What-ifs on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perfmodel.units import format_count, format_time
from planner.choice import Choice
from planner.prices import format_usd
from planner.report import means_lines
from planner.whatif.grid import Grid
from planner.whatif.market import fleet_name, hosts_name
from planner.whatif.pairing import LEVELS, Costs, Pairing
from planner.whatif.price import PriceCurve
from planner.whatif.sensitivity import Case, Tornado
from planner.whatif.shadow import HostPrice, ShadowPrices, TargetPrice

NONE = "no fleet"


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=column == "what",
        )
    return table


def _usd(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _fleet(choice: Choice | None) -> str:
    return NONE if choice is None else f"${choice.usd_per_hour:,.2f} per hour, {fleet_name(choice)}"


def print_grid(grid: Grid, console: Console) -> None:
    """One line per cell; fixed settings above, why some have no fleet below."""
    varied = [axis for axis in grid.axes if len(axis.settings) > 1]
    for axis in grid.axes:
        if axis not in varied:
            console.print(Text(f"{axis.name}: {axis.settings[0].label}"))
    most = "max" in grid.demands
    # At a space a narrow column breaks: a device, and what changes of it.
    names = [axis.name.split(".", 1)[-1].replace(".", " ") for axis in varied]
    names = [name.replace("usd_per_device_hour", "USD/h each") for name in names]
    right = ["USD/h", *(["QPS"] if most else []), "TTFT", "TTIT", "USD/M out"]
    table = _table(*names, *right[:-3], "fleet", *right[-3:], right=right)
    for answer in grid.answers:
        labels = [answer.cell.labels[axis.name] for axis in varied]
        row = answer.row()
        if answer.plan is None:
            why = grid.reasons.index(answer.error) + 1
            table.add_row(*labels, *["-"] * (len(right) - 3), f"{NONE} ({why})")
            continue
        table.add_row(
            *labels,
            f"{row['usd_per_hour']:,.2f}",
            *([f"{row['qps']:.4g}"] if most else []),
            row["fleet"],
            format_time(row["ttft_mean_s"]),
            format_time(row["ttit_mean_s"]),
            format_usd(row["usd_per_million_output_tokens"]),
        )
    console.print(table)
    for line in means_lines(a.plan.statistics for a in grid.answers if a.plan is not None):
        console.print(Text(line, style="dim"))
    for why, reason in enumerate(grid.reasons, 1):
        console.print(Text(f"({why}) {reason}", style="yellow"))


def print_price(curve: PriceCurve, console: Console) -> None:
    """Where the device is worth having, and the fleets in between."""
    name, enters, alone = curve.device, curve.enters_below, curve.alone_below
    if curve.needed:
        said = f"{name} is needed at any price: no fleet serves without it"
    elif enters is None:
        said = f"{name} is in no best fleet at any price"
    else:
        said = f"{name} is in the best fleet below ${enters:,.4g} per device-hour"
    if alone is not None and not curve.needed:
        said += ", alone" if alone == enters else f", alone below ${alone:,.4g}"
    console.print(Text(said, style="bold green"))
    usd, fleet = curve.usd_per_hour(curve.today_usd), fleet_name(curve.today.choice)
    console.print(Text(f"today ${curve.today_usd:,.2f}: ${usd:,.2f} per hour, {fleet}"))
    table = _table("price of one", "fleet", "USD/h there", right=("USD/h there",))
    for i, segment in enumerate(curve.segments):
        last = i == len(curve.segments) - 1
        low = 0.0 if i == 0 else segment.low
        span = f"from ${low:,.4g}" if last else f"${low:,.4g} to ${segment.high:,.4g}"
        line = segment.line
        prices = _usd(line.fixed)
        if line.devices:
            fixed = f"{line.fixed:,.2f} + " if line.fixed else ""
            prices = f"{fixed}{line.devices:,.0f} x price"
        table.add_row(span, fleet_name(line.choice), prices)
    console.print(table)


def print_pairing(found: Pairing, console: Console) -> None:
    """In which ratios of the two prices pairing pays, and how much."""
    first, second = found.first, found.second
    console.print(Text(f"prices of {first} over {second}; today {found.today_ratio:.3g}"))
    for title, costs in (
        (f"At {found.qps:g} requests/s, whole hosts", found.hosts),
        ("At scale (whole hosts, replicas and queues no longer count)", found.scale),
    ):
        console.print(Text(f"\n{title}", style="bold"))
        _print_costs(costs, found, console)


def _print_costs(costs: Costs, found: Pairing, console: Console) -> None:
    sides = ((found.first, costs.first), (found.second, costs.second))
    alone = [name for name, devices in sides if devices != float("inf")]
    if not costs.mixed:
        console.print(f"no pairing to compare: served by {', '.join(alone) or 'neither'} alone")
        return
    if not alone:
        console.print("neither serves alone, both together do:")
        console.print(f"  {costs.fleet(found.today_ratio)}")
        return
    ratio, today = costs.best_ratio, float(costs.saving(found.today_ratio))
    if ratio is None:
        console.print(f"only {alone[0]} serves alone; pairing {_saved(today)} today")
        console.print(f"  {costs.fleet(found.today_ratio)}")
    else:
        most = float(costs.saving(ratio))
        console.print(f"best pairing at ratio {ratio:.3g}: {_saved(most)}; today {_saved(today)}")
        console.print(f"  {costs.fleet(ratio)}")
    table = _table("saves more than", "ratio from", "to", right=("ratio from", "to"))
    for level in LEVELS:
        region = costs.region(level)
        ends = ("-", "-") if region is None else [f"{end:.3g}" for end in region]
        table.add_row(f"{level:.0%}", *ends)
    console.print(table)


def _saved(share: float) -> str:
    return f"saves {share:.1%}" if share >= 0 else f"costs {-share:.1%} more"


def print_shadow(found: ShadowPrices, console: Console) -> None:
    """What each target and each inventory costs."""
    console.print(Text(f"today: {_fleet(found.today.choice)}", style="bold green"))
    if found.targets:
        console.print(Text("\nLatency targets", style="bold"))
        table = _table("target", "USD/h per ms", "next cheaper fleet", "tighter for the same price")
        for target in found.targets:
            table.add_row(
                f"{target.name.upper()} {format_time(target.today.value)} ({target.statistic})",
                *_target_cells(target),
            )
        console.print(table)
    if found.hosts:
        console.print(Text("\nInventories", style="bold"))
        table = _table("device", "at hand", "USD/h per host", "next cheaper fleet")
        for host in found.hosts:
            table.add_row(host.device, f"{host.today.value:.0f}", *_host_cells(host))
        console.print(table)


def _target_cells(target: TargetPrice) -> tuple[str, str, str]:
    if target.cheaper is None:
        next_one = f"none up to {format_time(target.loosest_s)}"
        price = "0"
    else:
        at = format_time(target.cheaper.value)
        next_one = f"from {at}: {_fleet(target.cheaper.choice)}"
        slope = target.usd_per_hour_per_ms
        price = "-" if slope is None else f"{slope:.3g}"
    if target.today.choice is None:
        return price, next_one, "-"
    tight = f"to {format_time(target.tightest.value)}"
    if target.dearer is None:
        return price, next_one, f"{tight} at least"
    return price, next_one, f"{tight}, then {_fleet(target.dearer.choice)}"


def _host_cells(host: HostPrice) -> tuple[str, str]:
    if host.cheaper is None:
        return "0", "none: more of them save nothing"
    price = host.usd_per_hour_per_host
    more = format_count(host.further_hosts, "further host")
    return "-" if price is None else f"{price:,.2f}", f"{more}: {_fleet(host.cheaper.choice)}"


def print_tornado(found: Tornado, console: Console) -> None:
    """Whether today's devices stay the choice, then every case, the widest swing first."""
    devices, count = " + ".join(found.devices), len(found.cases)
    over, regret = found.overturned, found.largest_regret
    if not over:
        line = f"robust: {devices} stays the cheapest choice in all {count} cases"
    else:
        most = "it does not serve" if regret == float("inf") else f"it costs {regret:.1%} more"
        line = f"{devices} stays the cheapest choice in {count - len(over)} of {count} cases"
        line += f"; where it does not, at worst {most}"
    console.print(Text(line, style="bold yellow" if over else "bold green"))
    console.print(Text(f"today: {_fleet(found.today)}"))
    console.print(
        Text(
            "Each case is laid out and sized anew on these devices; what runs today may miss a "
            "target before that (the notes of `planner solve` say by how much it may).",
            style="dim",
        )
    )
    numbers = ("low", "high", "USD/h low", "USD/h high")
    table = _table("what", *numbers, "instead", "regret", right=(*numbers, "regret"))
    for swing in found.swings:
        instead = dict.fromkeys(hosts_name(c.best) for c in swing.cases if c.changes and c.best)
        table.add_row(
            swing.what,
            *(case.label for case in swing.cases),
            *(_usd(case.usd_per_hour) if case.best else NONE for case in swing.cases),
            "; ".join(instead),
            _regret([case for case in swing.cases if case.changes]),
        )
    console.print(table)
    for swing in found.swings:
        if swing.note:
            console.print(Text(f"{swing.what}: {swing.note}", style="dim"))


def _regret(cases: Sequence[Case]) -> str:
    """The largest of some cases, USD per hour."""
    if not cases:
        return ""
    if any(case.regret_usd_per_hour is None for case in cases):
        return "does not serve"
    return f"{max(case.regret_usd_per_hour or 0.0 for case in cases):,.2f}"
