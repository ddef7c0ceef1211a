"""How well the operator models predict measurements that they were not given.

Four tests on each shipped table that an operator model reads:

- rows: a random tenth of its rows is left out (seeded); the other tables stay as they are, as
  for a hole in a table in service;
- folds: ten such tenths in turn, so that each row of a small table is left out once;
- nowhere: the tenth is left out of the other tables too, as of a shape that nobody timed;
- shapes: every fifth shape is left out whole: (n, k) of a dense layer, head counts and
  size of attention, the layer and its degrees of routed experts, devices of collectives,
  devices, hosts and tokens' width of exchanges.

A model is built on the rest and predicts what was left out, by the code path that
solving a query takes. At most `CAP` rows per table and test are predicted, drawn at random.

Two things are kept out of the comparison, for they are no interpolation:

- fp8 and nvfp4 linear layers are predicted as they were timed, with dynamic scales: the
  model's correction to static scales (`perfmodel.operators.gemm`) is bypassed;
- rows faster than the roofline: the model takes them for benchmarks that ran from cache
  and never predicts them. They are counted as `beyond_roofline`.

The noise of a table is how far a row lies from the line between its two neighbours along
the token axis, as the median and the 90th percentile of the table: no interpolation that
knows only these neighbours can do better. What was timed twice tells more (`table_noise`).

    python experiments/accuracy_operators.py [--device h200_sxm] [--family gemm] [--cap 3000]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from table_noise import Repeat, repeats

from perfmodel.database import PerfStore
from perfmodel.hardware import load_device
from perfmodel.operators.all_to_all import DOMAIN, NETWORK, SMS, AllToAll
from perfmodel.operators.attention import ContextAttention, GenerationAttention
from perfmodel.operators.base import OperatorModel, largest
from perfmodel.operators.collective import AllReduce, NcclCollective
from perfmodel.operators.dispatched import DispatchedExperts
from perfmodel.operators.gemm import Gemm
from perfmodel.operators.mla import MlaAbsorb, MlaContext, MlaGeneration
from perfmodel.operators.mla_block import WideMlaContext, WideMlaGeneration
from perfmodel.operators.moe import RoutedExperts

RESULTS = Path(__file__).parent / "results"
SEED = 20240607
CAP = 3000
EVERY = 5

SMALL = 3000
"""Tables of at most this many rows are tested in folds."""

ROWS, FOLDS, NOWHERE, SHAPES = "rows", "folds", "nowhere", "shapes"
_BAR = (0.03, 0.10)
BARS = {ROWS: _BAR, FOLDS: _BAR, NOWHERE: _BAR, SHAPES: (0.08, float("inf"))}
"""Largest median and 90th percentile of the error that pass."""


class _TimedGemm(Gemm):
    """Linear layers as they were timed: a dynamic format keeps its quantization, a launch is one.

    An engine's own table comes first even where it timed launches: it is what is predicted.
    """

    def engines_for(self, categories: Mapping[str, str]) -> tuple[str, ...]:
        return self.table_engines

    def _select(self, frame: pl.DataFrame, categories: Mapping[str, str]) -> pl.DataFrame:
        return OperatorModel._select(self, frame, categories)


@dataclass(frozen=True)
class Subject:
    """A family under test.

    Attributes:
        model: its operator model.
        categories: columns that must match exactly.
        shape: columns that make a whole shape.
        line: the token axis, along which noise is estimated.
        prepare: leaves out rows that no estimate reads, and adds labels that the table implies.
    """

    model: type[OperatorModel]
    categories: tuple[str, ...]
    shape: tuple[str, ...]
    line: str
    prepare: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame


def _exchanges(frame: pl.DataFrame) -> pl.DataFrame:
    """At the multiprocessors that engines give to them, with how far they reach."""
    read = pl.col("sms").is_in([0, SMS]) & (pl.col("operation") != "combine_low_precision")
    reach = pl.when(pl.col("nodes") == 1).then(pl.lit(DOMAIN)).otherwise(pl.lit(NETWORK))
    return frame.filter(read).with_columns(reach=reach)


_KV = ("dtype", "kv_dtype")
_LAYER = ("hidden", "intermediate", "top_k", "experts", "tp", "ep")
_SPREAD = ("hidden", "intermediate", "top_k", "experts", "slots", "ep")
_EXCHANGE = ("operation", "mode", "dtype", "reach")
_TRAVELS = ("hidden", "top_k", "experts", "devices", "nodes")
_WIDE = ("gemm_dtype", *_KV)
SUBJECTS = {
    subject.model.family: subject
    for subject in (
        Subject(_TimedGemm, ("dtype",), ("n", "k"), "m"),
        Subject(ContextAttention, _KV, ("q_heads", "kv_heads", "head_dim"), "tokens"),
        Subject(GenerationAttention, _KV, ("q_heads", "kv_heads", "head_dim"), "context_tokens"),
        Subject(MlaContext, _KV, ("heads",), "tokens"),
        Subject(MlaGeneration, _KV, ("heads",), "context_tokens"),
        Subject(MlaAbsorb, ("dtype", "stage"), ("heads",), "tokens"),
        Subject(RoutedExperts, ("dtype", "routing", "activation"), _LAYER, "tokens"),
        Subject(DispatchedExperts, ("phase", "dtype", "routing"), _SPREAD, "tokens"),
        Subject(AllToAll, _EXCHANGE, _TRAVELS, "tokens", _exchanges),
        Subject(WideMlaContext, _WIDE, ("heads",), "tokens"),
        Subject(WideMlaGeneration, _WIDE, ("heads",), "context_tokens"),
        Subject(AllReduce, ("dtype",), ("devices",), "message_bytes"),
        Subject(NcclCollective, ("operation", "dtype"), ("devices",), "message_bytes"),
    )
}


@dataclass(frozen=True)
class Score:
    """Errors of one test on one table, or of several tables together.

    Attributes:
        test: one of `BARS`.
        rows: predictions made.
        beyond_roofline: rows left out of the comparison, for they beat the roofline.
        median, p90: of the absolute relative error; NaN where nothing could be left out.
        noise_median, noise_p90: distance of rows from the line between their neighbours.
    """

    device: str
    engine: str
    family: str
    test: str
    rows: int
    beyond_roofline: int
    median: float
    p90: float
    noise_median: float
    noise_p90: float

    @property
    def passed(self) -> bool:
        """Whether both errors stay within the test's bars."""
        median, p90 = BARS[self.test]
        return self.median <= median and self.p90 <= p90


class _Reduced(PerfStore):
    """The shipped tables, one of them less the rows left out; the others less them too, or not."""

    def __init__(
        self, key: tuple[str, str, str], kept: pl.DataFrame, nowhere: pl.DataFrame | None
    ) -> None:
        super().__init__()
        self._key, self._kept, self._nowhere = key, kept, nowhere

    def table(self, device: str, engine: str, family: str) -> pl.DataFrame | None:
        if (device, engine, family) == self._key:
            return self._kept
        frame = super().table(device, engine, family)
        if frame is None or family != self._key[2] or self._nowhere is None:
            return frame
        # A label that `prepare` adds is implied by the table's own columns.
        points = [name for name in self._nowhere.columns if name in frame.columns]
        return frame.join(self._nowhere, on=points, how="anti", maintain_order="left")


def left_out(frame: pl.DataFrame, subject: Subject, test: str) -> Iterator[np.ndarray]:
    """Which rows of a table a test leaves out at a time: masks, none where it cannot."""
    if test in (ROWS, NOWHERE):
        yield np.random.default_rng(SEED).random(len(frame)) < 0.1
    elif test == FOLDS:
        if len(frame) <= SMALL:
            fold = np.random.default_rng(SEED).permutation(len(frame)) % 10
            yield from (fold == i for i in range(10))
    else:
        shapes = frame.select(subject.shape).unique().sort(subject.shape)
        if len(shapes) < 3:  # one of two shapes has neighbours on one side only
            return
        first = min(2, (len(shapes) - 1) // 2)
        out = (np.arange(len(shapes)) % EVERY) == first
        marked = shapes.with_columns(out=pl.Series(out))
        joined = frame.join(marked, on=subject.shape, how="left", maintain_order="left")
        yield joined["out"].to_numpy()


def predictions(model: OperatorModel, subject: Subject, rows: pl.DataFrame) -> Iterator[np.ndarray]:
    """Measured time, predicted time and roofline of rows: one (N, 3) array per category."""
    names = [*model.slices, *model.axes, *model.beside]
    for labels, part in rows.group_by(subject.categories, maintain_order=True):
        categories = dict(zip(subject.categories, map(str, labels), strict=True))
        shape = {name: part[name].to_numpy().astype(float)[:, None] for name in names}
        predicted = model.time(categories, shape).seconds[:, 0]
        floor = np.broadcast_to(largest(model.roofline(categories, shape)), (len(part), 1))
        yield np.stack([part["time_s"].to_numpy().astype(float), predicted, floor[:, 0]], axis=1)


def noise(frame: pl.DataFrame, subject: Subject) -> np.ndarray:
    """Distance of each row from the line between its neighbours along the token axis.

    In logarithms, as a relative error; rows at the end of a line have none.
    """
    rest = [
        name
        for name in (*subject.categories, *subject.model.slices, *subject.model.axes)
        if name != subject.line
    ]
    x, y = pl.col(subject.line).log(), pl.col("time_s").cast(pl.Float64).log()
    x0, x2, y0, y2 = (c.shift(by).over(rest) for c in (x, y) for by in (1, -1))
    line = y0 + (x - x0) / (x2 - x0) * (y2 - y0)
    distance = frame.sort(*rest, subject.line).select(d=(line - y).abs())["d"]
    return distance.drop_nulls().to_numpy()


def score(key: tuple[str, str, str], cap: int) -> list[tuple[Score, np.ndarray]]:
    """All tests on one table, with the errors of each."""
    device, engine, family = key
    subject = SUBJECTS[family]
    frame = PerfStore().table(*key)
    assert frame is not None
    frame = subject.prepare(frame)
    if "prefix_tokens" in frame.columns:
        frame = frame.filter(pl.col("prefix_tokens") == 0)
    jumps = np.quantile(noise(frame, subject), [0.5, 0.9])
    points = [*subject.categories, *subject.model.slices, *subject.model.axes]
    found = []
    for test in BARS:
        parts = [np.zeros((0, 3))]
        for out in left_out(frame, subject, test):
            asked = frame.filter(out)
            nowhere = asked.select(points) if test == NOWHERE else None
            store = _Reduced(key, frame.filter(~out), nowhere)
            model = subject.model(load_device(device), engine, store)
            if len(asked) > cap:
                asked = asked.sample(cap, seed=SEED)
            parts.extend(predictions(model, subject, asked))
        measured, predicted, floor = np.concatenate(parts).T
        sound = (measured >= floor) | (not subject.model.floor_is_exact)
        errors = np.abs(predicted / measured - 1.0)[sound]
        errors_or_none = errors if len(errors) else np.array([np.nan])
        found.append(
            (
                Score(
                    device,
                    engine,
                    family,
                    test,
                    len(errors),
                    int((~sound).sum()),
                    float(np.median(errors_or_none)),
                    float(np.quantile(errors_or_none, 0.9)),
                    float(jumps[0]),
                    float(jumps[1]),
                ),
                errors,
            )
        )
    return found


def pooled(scores: Sequence[tuple[Score, np.ndarray]]) -> list[Score]:
    """Engines of a device and family together, each table with as many rows as were predicted."""
    groups: dict[tuple[str, str, str], list[tuple[Score, np.ndarray]]] = {}
    for item in scores:
        groups.setdefault((item[0].family, item[0].device, item[0].test), []).append(item)
    found = []
    for (family, device, test), items in sorted(groups.items()):
        errors = np.concatenate([errors for _, errors in items])
        if not len(errors):
            continue
        found.append(
            Score(
                device,
                "all",
                family,
                test,
                len(errors),
                sum(s.beyond_roofline for s, _ in items),
                float(np.median(errors)),
                float(np.quantile(errors, 0.9)),
                float(np.median([s.noise_median for s, _ in items])),
                float(np.median([s.noise_p90 for s, _ in items])),
            )
        )
    return found


def _mark(score: Score) -> str:
    return "pass" if score.passed else "FAIL"


def print_table(scores: Sequence[Score]) -> None:
    """One line per family, device and test."""
    head = f"{'family':22}{'device':13}{'test':8}{'rows':>7}{'median':>9}{'p90':>9}"
    print(f"{head}{'noise':>9}{'noise90':>9}")
    for s in scores:
        name = f"{s.family:22}{s.device:13}{s.test:8}{s.rows:7d}"
        errors = f"{s.median:9.2%}{s.p90:9.2%}{s.noise_median:9.2%}{s.noise_p90:9.2%}"
        print(f"{name}{errors}  {_mark(s)}")
    for test, (median, p90) in BARS.items():
        own = [s for s in scores if s.test == test]
        bars = f"median <= {median:.0%}" + (f", p90 <= {p90:.0%}" if p90 < 1 else "")
        print(f"{test}: {sum(s.passed for s in own)} of {len(own)} within {bars}")


def print_repeats(found: Sequence[Repeat]) -> None:
    """What each timing is off by, of things timed twice."""
    for r in found:
        name = f"{r.family:12}{r.device:13}{f'{r.first} - {r.second}':44}{r.rows:7d}"
        print(f"{name}{r.median:9.2%}{r.p90:9.2%}")


def write_figure(scores: Sequence[Score], path: Path) -> None:
    """Median errors by family, one mark per device, with the bar of each test."""
    import altair as alt

    values = [
        {"family": s.family, "device": s.device, "test": s.test, "error": 100 * s.median}
        for s in scores
    ]
    bars = [{"test": test, "bar": 100 * median} for test, (median, _) in BARS.items()]
    titles = {
        ROWS: "a tenth of the rows left out",
        NOWHERE: "of all tables",
        SHAPES: "whole shapes",
    }
    panels = []
    for test, title in titles.items():
        marks = (
            alt.Chart(alt.Data(values=[v for v in values if v["test"] == test]))
            .mark_point(filled=True, size=60, opacity=0.8)
            .encode(
                x=alt.X("error:Q", title="median error, %", scale=alt.Scale(domainMin=0)),
                y=alt.Y("family:N", title=None),
                color=alt.Color("device:N", title="device"),
            )
        )
        line = (
            alt.Chart(alt.Data(values=[b for b in bars if b["test"] == test]))
            .mark_rule(strokeDash=[4, 4])
            .encode(x="bar:Q")
        )
        panels.append((marks + line).properties(title=title, width=300, height=240))
    alt.hconcat(*panels).save(str(path))


def main() -> None:
    """Score every shipped table, print, and save numbers and figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", action="append", help="only this device (repeatable)")
    parser.add_argument("--engine", action="append", help="only this engine (repeatable)")
    parser.add_argument("--family", action="append", help="only this family (repeatable)")
    parser.add_argument("--cap", type=int, default=CAP, help="rows predicted per table and test")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder; see --no-save")
    parser.add_argument("--no-save", action="store_true")
    given = parser.parse_args()
    started = time.perf_counter()
    keys = [
        (info.device, info.engine, info.family)
        for info in PerfStore().describe()
        if info.family in SUBJECTS
        and info.device in (given.device or [info.device])
        and info.engine in (given.engine or [info.engine])
        and info.family in (given.family or [info.family])
    ]
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        found = [s for part in pool.map(partial(score, cap=given.cap), keys) for s in part]
    totals = pooled(found)
    print_table(totals)
    store = PerfStore()
    twice = [r for device in sorted({key[0] for key in keys}) for r in repeats(store, device)]
    twice = [r for r in twice if r.family in (given.family or [r.family])]
    print_repeats(twice)
    seconds = time.perf_counter() - started
    print(f"{len(keys)} tables in {seconds:.0f} s")
    if given.no_save:
        return
    tables = [{**asdict(s), "passed": s.passed} for s, _ in found if s.rows]
    bars = {test: {"median": m, "p90": p if p < 1 else None} for test, (m, p) in BARS.items()}
    summary = [{**asdict(s), "passed": s.passed} for s in totals]
    result = {"seed": SEED, "cap": given.cap, "bars": bars, "summary": summary, "tables": tables}
    result["repeats"] = [asdict(r) for r in twice]
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "accuracy_operators.json").write_text(json.dumps(rounded(result), indent=1))
    write_figure(totals, given.output / "accuracy_operators.svg")


def rounded(value: Any) -> Any:
    """Numbers to five decimals, so that the file does not change with the last bit."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
