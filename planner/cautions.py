"""What is known against the devices of an answer, and the answer without them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.plan import fleet_hosts_text


def cautions(plan: Mapping[str, Any]) -> list[str]:
    """Lines on a plan, as `Plan.to_dict` has it: `caution: ...`, and `without ...: $...`."""
    names = {host["device"] for host in plan["best"]["hosts"]}
    doubted = {n for n in names if any(note.startswith(f"{n}: ") for note in plan["notes"])}
    lines = [
        f"caution: {note}"
        for note in plan["notes"]
        if any(note.startswith(f"{name}: ") for name in doubted)
    ]
    if not lines:
        return []
    others = (
        fleet
        for fleet in plan["alternatives"]
        if not doubted & {host["device"] for host in fleet["hosts"]}
    )
    if (best := next(others, None)) is not None:
        price = f"${best['usd_per_hour']:,.2f}"
        lines.append(f"without {', '.join(sorted(doubted))}: {price}, {fleet_hosts_text(best)}")
    return lines
