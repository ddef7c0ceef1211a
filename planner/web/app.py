"""The page of `planner ui`, which Streamlit runs anew at every change of an input.

Arguments of the script: the folder that is served.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import streamlit as st

from perfmodel.architecture import catalog
from perfmodel.database import PerfStore
from perfmodel.engine import ENGINES
from perfmodel.errors import InputError
from planner.cautions import cautions
from planner.evaluated import Evaluated
from planner.files import as_text
from planner.plan import Plan
from planner.prices import format_usd, price_list
from planner.query import Query, load_query
from planner.query_workload import Target
from planner.web.explore import (
    View,
    brought,
    devices_in,
    queries_in,
    query_text,
    search,
    search_key,
    untargeted,
    view,
)
from planner.web.pages import Tabulated, table_html
from planner.web.report import confidence, decision, page
from planner.web.tables import others as other_fleets
from planner.web.tables import pools

FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd()
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
TARGETS_MS = {"ttft": (50.0, 10_000.0), "ttit": (2.0, 200.0)}
STEPS = 60


@st.cache_resource(max_entries=1)
def tables() -> PerfStore:
    """Operator tables, read once for all visitors."""
    return PerfStore()


@st.cache_resource(max_entries=2, show_spinner=False)
def searched(key: str, _query: Query) -> Evaluated:
    """The candidates of a question; `key` is what they depend on."""
    bar = st.progress(0.0, "searching")
    try:

        def progress(what: str, share: float) -> None:
            bar.progress(share, what)

        return search(_query, [FOLDER], tables(), progress)
    finally:
        bar.empty()


def main() -> None:
    """Inputs at the side, the answer in the middle."""
    st.set_page_config("Fleet planner", layout="wide")
    try:
        query = asked()
        found = searched(search_key(query), untargeted(query))
        shown = view(found, query)
    except InputError as error:
        st.error(plain(str(error)))
        return
    if shown.plan is None:
        st.header("No fleet serves this")
        st.write(plain(shown.problem))
        st.write("Loosen a target, add a device, or ask `planner solve` which limit binds.")
    else:
        answer(shown.plan)
    left, right = st.columns(2)
    for column, against in ((left, "ttit"), (right, "ttft")):
        with column:
            st.subheader(f"Price against {against.upper()}")
            st.vega_lite_chart(shown.figures[against], theme=None, key=against)
            st.caption(
                "Lines: a large fleet without waiting. Cross: this plan, on whole hosts and with "
                "room for waiting."
            )
    if shown.plan is not None:
        others(shown.plan)
        exports(query, shown)


def asked() -> Query:
    """The query that the inputs make.

    Raises:
        InputError: what was brought along is no query.
    """
    with st.sidebar:
        st.title("Fleet planner")
        begun, base = start()
        model = st.selectbox("Model", models(base), index=0, key=f"{begun} model")
        workload = dict(base.model_dump(mode="json", exclude_defaults=True)["workload"])
        workload["qps"] = st.number_input(
            "Requests/s", 0.01, 1e6, value=number(base.workload.qps), key=f"{begun} qps"
        )
        for name in ("input_tokens", "output_tokens"):
            lengths = getattr(base.workload, name)
            mean = st.number_input(
                f"{name.split('_')[0].capitalize()} tokens, mean",
                1,
                10**6,
                value=round(lengths.mean),
                key=f"{begun} {name}",
            )
            scale = mean / round(lengths.mean)
            workload[name] = {
                "tokens": [max(tokens * scale, 1.0) for tokens in lengths.tokens],
                "weights": list(lengths.weights),
            }
        slo = {n: target(begun, n, getattr(base.slo, n)) for n in ("ttft", "ttit")}
        devices = chosen_devices(begun, base)
        runtimes = st.pills(
            "Runtimes",
            ("continuous", "disaggregated"),
            selection_mode="multi",
            default=list(base.runtime),
            key=f"{begun} runtime",
        )
        engine = st.selectbox(
            "Engine", list(ENGINES), index=list(ENGINES).index(base.engine), key=f"{begun} engine"
        )
    fields = base.model_dump(mode="json", exclude_defaults=True)
    fields |= {
        "model": model,
        "workload": workload,
        "slo": {name: value for name, value in slo.items() if value is not None},
        "devices": devices,
        "runtime": runtimes or list(base.runtime),
        "engine": engine,
    }
    return Query.model_validate(fields)


def start() -> tuple[str, Query]:
    """The query that the inputs start from, and its name: inputs of another are other inputs.

    Raises:
        InputError: what was brought along is no query.
    """
    known = queries_in(FOLDER)
    file = st.file_uploader("Bring a query", type=["yaml", "yml"], key="brought")
    if file is not None:
        return file.file_id, brought(file.getvalue(), FOLDER)
    name = st.selectbox("Start from", [BUILT_IN, *known], key="start")
    return name, (FIRST if name == BUILT_IN else load_query(known[name]))


BUILT_IN = "chat, Llama 3.1 70B"
FIRST = Query.model_validate(
    {
        "model": "meta-llama/Llama-3.1-70B",
        "workload": {"qps": 40, "input_tokens": 1000, "output_tokens": 250},
        "slo": {"ttft": "500ms", "ttit": "40ms"},
        "devices": ["h100_sxm", "h200_sxm", "b200_sxm"],
        "precision": {"weights": "fp8", "kv": "fp8"},
    }
)
"""What is shown before anything is chosen."""


def models(base: Query) -> list[Any]:
    """The base query's model first, then those shipped."""
    own = base.model if isinstance(base.model, str) else base.model.model_dump()
    return [own, *(name for name in catalog() if name != own)]


def number(qps: float | str) -> float:
    """Requests/s to start from."""
    return 10.0 if isinstance(qps, str) else float(qps)


def target(begun: str, name: str, own: Target | None) -> dict[str, float | None] | None:
    """A latency target: a slider, on a logarithmic scale, and its statistic."""
    low, high = TARGETS_MS[name]
    stops = [round(low * (high / low) ** (i / STEPS), 1) for i in range(STEPS + 1)]
    value = stops[-1]
    if own is not None:
        value = min(max(round(own.seconds * 1e3, 1), low), high)
        stops = sorted({*stops, value})
    label = f"{name.upper()} target"
    wanted = st.toggle(label, value=own is not None, key=f"{begun} {name}-wanted")
    if not wanted:
        return None
    milliseconds = st.select_slider(f"{label}, ms", stops, value=value, key=f"{begun} {name}-ms")
    statistic = own.statistic if own is not None else "mean"
    known = [*dict.fromkeys([statistic, *STATISTICS])]
    picked = (
        st.segmented_control("of its", known, default=statistic, key=f"{begun} {name}-statistic")
        or statistic
    )
    percentile = None if picked == "mean" else float(picked.removeprefix("p"))
    return {"seconds": milliseconds / 1e3, "percentile": percentile}


def chosen_devices(begun: str, base: Query) -> list[dict[str, Any]]:
    """Devices with their prices, as an editable table."""
    prices = price_list()
    own = {device.name: device for device in base.devices}
    names = list(dict.fromkeys([*own, *devices_in(FOLDER)]))
    rows: list[dict[str, Any]] = []
    for name in names:
        device = own.get(name)
        price = device.usd_per_device_hour if device else None
        listed = prices.get(name)
        rows.append(
            {
                "use": device is not None,
                "device": name,
                "USD/h": price if price is not None else (listed[0] if listed else None),
                "have": device.inventory if device else None,
            }
        )
    st.caption("Devices, price of one per hour, and how many there are")
    edited = st.data_editor(
        rows,
        hide_index=True,
        disabled=["device"],
        column_config={
            # As wide as the side has room for.
            "use": st.column_config.CheckboxColumn(width=47),
            "device": st.column_config.TextColumn(width=87),
            "USD/h": st.column_config.NumberColumn("$/h", min_value=0.01, format="%.2f", width=52),
            "have": st.column_config.NumberColumn(min_value=1, step=1, width=54),
        },
        key=f"{begun} devices",
    )
    shown = {row["device"]: row["USD/h"] for row in rows}
    devices = []
    for row in edited:
        if not row["use"]:
            continue
        device = own.get(row["device"])
        fields = device.model_dump(exclude_none=True) if device else {"name": row["device"]}
        # A listed price stays the list's, with its source; one that was changed is the query's.
        if row["USD/h"] not in (None, shown[row["device"]]):
            fields["usd_per_device_hour"] = row["USD/h"]
        if row["have"] is not None:
            fields["inventory"] = int(row["have"])
        devices.append(fields)
    return devices


def answer(plan: Plan) -> None:
    """The decision, and what it costs and reaches."""
    best = plan.best
    st.header(f"${best.usd_per_hour:,.2f} per hour")
    data = plan.to_dict()
    st.write(decision(data))
    st.write(confidence(data))
    for line in cautions(data):
        st.warning(plain(line))
    cells = st.columns(5)
    at_slo = best.ttft.slo_s or best.ttft.mean_s
    ttit = best.ttit_slo_s or best.ttit_mean_s
    for cell, (label, value) in zip(
        cells,
        (
            (f"TTFT ({plan.statistics.get('ttft', 'mean')})", f"{at_slo * 1e3:,.0f} ms"),
            (f"TTIT ({plan.statistics.get('ttit', 'mean')})", f"{ttit * 1e3:,.1f} ms"),
            ("per million input tokens", f"${format_usd(best.usd_per_million_input_tokens)}"),
            ("per million output tokens", f"${format_usd(best.usd_per_million_output_tokens)}"),
            ("measured share of time", f"{best.measured_share:.0%}"),
        ),
        strict=True,
    ):
        cell.metric(label, value)
    table(pools(data["best"]), "Pools")
    if plan.notes:
        st.subheader("What to know before buying")
        st.markdown("\n".join(f"- {plain(note)}" for note in plan.notes))


def table(shown: Tabulated, label: str) -> None:
    """A table as text: a grid is drawn, so that it is cut where the page is narrow, and mute."""
    st.html(STYLE + table_html(shown, label))


STYLE = """<style>
table { --edge: #88888855; --soft: color-mix(in srgb, currentColor 75%, transparent); }
</style>"""


def plain(text: str) -> str:
    """Text that Markdown leaves as it is: two prices in a line are no formula."""
    return text.replace("$", r"\$")


def others(plan: Plan) -> None:
    """Other fleets, and why each lost."""
    st.subheader("Other fleets")
    table(other_fleets(plan.to_dict()), "Other fleets")


def exports(query: Query, shown: View) -> None:
    """The query, the plan and its page as files."""
    plan = shown.plan
    assert plan is not None
    data = json.loads(json.dumps(plan.to_dict()))
    for column, (label, name, text) in zip(
        st.columns(3),
        (
            ("Save the query", "query.yaml", lambda: query_text(query)),
            ("Save the plan", "plan.json", lambda: as_text(data, Path("plan.json"))),
            ("Save the report", "plan.html", lambda: page(data, {}, "plan", [FOLDER], tables())),
        ),
        strict=True,
    ):
        column.download_button(label, text, name, on_click="ignore", key=name)


main()
