"""What the experiments on the five insights share: how a claim is judged and shown.

An experiment states its claim, its set-up and the checks into which it takes the claim apart, each
with its threshold; the verdict follows from them. It then shows tables and saves a figure and all
its numbers:

    options = insight.options(__doc__)
    insight.show(Insight(name, claim, set_up, checks, tables, chart, numbers), options.out)
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner import figures

RESULTS = Path(__file__).parent / "results"
WIDTH = 80
WIDEST = 100
"""Of tables, which a narrower terminal wraps."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Check:
    """A part of a claim, and whether the numbers bear it out.

    Attributes:
        part: what is claimed, with the threshold at which it counts as borne out.
        found: what the numbers say.
        holds: whether that meets the threshold; None: no threshold, told for what it is worth.
    """

    part: str
    found: str
    holds: bool | None

    @classmethod
    def within(
        cls, part: str, values: Sequence[float], low: float, high: float, unit: str = "x"
    ) -> Check:
        """All values lie between two bounds; of no values none does."""
        found = f"{spread(values)}{unit if values else ''}"
        bounds = f"{low:g} to {high:g}{unit}"
        if high == float("inf"):
            bounds = f"at least {low:g}{unit}"
        elif low == -float("inf"):
            bounds = f"at most {high:g}{unit}"
        holds = bool(values) and all(low <= value <= high for value in values)
        return cls(f"{part}: {bounds}", found, holds)


@dataclass(frozen=True)
class Insight:
    """An experiment's outcome.

    Attributes:
        name: of the files saved, without ending.
        set_up: lines.
        tables: rows by title, each row a mapping from column to what is printed.
        chart: an Altair chart, titled.
        numbers: what JSON holds besides.
    """

    name: str
    claim: str
    set_up: Sequence[str]
    checks: Sequence[Check]
    tables: Mapping[str, Rows]
    chart: Any
    numbers: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """`reproduced` if all parts of the claim hold, `refuted` if none does, else `partly`."""
        judged = [check.holds for check in self.checks if check.holds is not None]
        if judged and all(judged):
            return "reproduced"
        return "partly" if any(judged) else "refuted"


def options(doc: str | None) -> argparse.Namespace:
    """The command line of an experiment: `quick`, and the folder `out`."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small grid; saves nothing")
    parser.add_argument("--out", type=Path, help="folder for figure and JSON", default=None)
    given = parser.parse_args()
    if given.quick and given.out is not None:
        parser.error("--quick saves nothing: leave --out away")
    if given.out is None and not given.quick:
        given.out = RESULTS
    return given


def show(insight: Insight, out: Path | None, console: Console | None = None) -> None:
    """Print claim, set-up, verdict and tables; save figure and numbers to a folder.

    Args:
        out: None: a quick run, which saves nothing, and is too small for a verdict.
    """
    console = console or Console(width=WIDEST, highlight=False)

    def lines(mark: str, text: str) -> None:
        indent = " " * len(mark)
        wrapped = textwrap.wrap(text, WIDTH, initial_indent=mark, subsequent_indent=indent)
        console.print("\n".join(wrapped), markup=False)

    lines("CLAIM    ", insight.claim)
    for i, line in enumerate(insight.set_up):
        lines("         " if i else "SET-UP   ", line)
    quick = out is None
    lines("VERDICT  ", "none: a quick run covers too little" if quick else insight.verdict)
    for check in insight.checks:
        mark = {True: "yes", False: "no", None: "note"}[None if quick else check.holds]
        lines(f"  {mark:7}", f"{check.part} -- {check.found}")
    for title, rows in insight.tables.items():
        console.print()
        lines("", title)
        console.print(table(rows))
    if out is None:
        return
    path = out / f"{insight.name}.svg"
    figures.write_figure(insight.chart, path)
    saved = {
        "claim": insight.claim,
        "set_up": list(insight.set_up),
        "verdict": insight.verdict,
        "checks": [asdict(check) for check in insight.checks],
        **insight.numbers,
    }
    path.with_suffix(".json").write_text(json.dumps(saved, indent=1) + "\n")
    console.print(f"saved {path} and {path.with_suffix('.json').name}", markup=False)


def table(rows: Rows) -> Table:
    """Rows as a table; numbers to three digits, to the right."""
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in rows[0] if rows else ():
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        found.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        found.add_row(*(Text(cell(value)) for value in row.values()))
    return found


def cell(value: Any) -> str:
    """A value as a table shows it; None is a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def spread(values: Sequence[float]) -> str:
    """The range of values, or the one there is."""
    if not values:
        return "none"
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"
