"""A plan's page: it says what the plan says, and works in a browser without a network."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from perfmodel.database import PerfStore
from perfmodel.errors import InputError
from planner.query import Query
from planner.solve import solve
from planner.web.charts import front_chart
from planner.web.report import confidence, fronts_of, looser, page
from planner.web.tables import why_lost

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
STORE = PerfStore()
QUERY = Query.model_validate(
    {
        "model": "Qwen/Qwen3-8B",
        "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
        "slo": {"ttft": {"p99": "800ms"}, "ttit": "30ms"},
        "devices": ["h100_sxm", "mi300x"],
        "search": {"max_replica_devices": 4},
    }
)


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    return solve(QUERY, store=STORE).to_dict()


@pytest.fixture(scope="module")
def text(plan: dict[str, Any]) -> str:
    return page(plan, fronts_of(QUERY, store=STORE), "plan", store=STORE)


def within(text: str, name: str) -> Any:
    """The JSON of a script element."""
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


def test_it_says_what_the_plan_says(plan: dict[str, Any], text: str) -> None:
    best = plan["best"]
    assert "by the times of TensorRT-LLM." in text
    assert "TTFT and TTIT: means; targets of p99 are met as such." in text
    assert f'<h1 id="decision">${best["usd_per_hour"]:,.2f} per hour</h1>' in text
    for fleet in plan["alternatives"]:
        assert f"${fleet['usd_per_hour']:,.2f}" in text
    for pool in best["pools"]:
        assert pool["layout"] in text
    # An analytic device is among the answer's: the page says so first.
    assert 'class="caution">Caution: mi300x' in text
    assert text.index("Caution: mi300x") < text.index("<main ")


def test_it_says_what_owned_devices_and_energy_cost(plan: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(plan))
    changed["best"]["hosts"][0]["owned_usd_per_hour"] = {"depreciation": 1.25, "staff": 0.5}
    text = page(changed, {}, "plan", store=STORE)
    assert "is owned; an hour of it is depreciation $1.25, staff $0.500." in text
    assert f"<dd>${plan['best']['usd_per_year']:,.0f}</dd>" in text
    energy = plan["best"]["energy"]
    assert f"<dd>{energy['site_power_w'] / 1e3:.3g} kW</dd>" in text
    assert f"{energy['gco2e_per_million_output_tokens']:.3g} g CO2e" in text


def test_a_page_of_a_plan_without_energy(plan: dict[str, Any]) -> None:
    older = json.loads(json.dumps(plan))
    older.pop("assumptions")
    for fleet in (older["best"], *older["alternatives"]):
        for name in ("energy", "usd_per_year"):
            fleet.pop(name)
        for host in fleet["hosts"]:
            host.pop("owned_usd_per_hour")
    assert "CO2e" not in page(older, {}, "plan", store=STORE).split("application/json")[0]


def test_the_plan_and_its_query_can_be_had_from_it(plan: dict[str, Any], text: str) -> None:
    files = within(text, "files")
    assert json.loads(files["plan.json"]) == json.loads(json.dumps(plan))
    again = Query.model_validate(yaml.safe_load(files["query.yaml"]))
    assert again.model_dump() == QUERY.model_dump()


def test_every_figure_has_its_numbers_as_a_table(text: str) -> None:
    specs = within(text, "specs")
    assert {"front-ttit", "front-ttft", "prices", "memory", "knowledge", "funnel"} <= set(specs)
    assert text.count("<summary>As a table</summary>") == len(specs)
    for name in specs:
        assert f'id="{name}"' in text


def test_it_names_no_other_place(text: str) -> None:
    outside = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    outside = re.sub(r'<script type="application/json".*?</script>', "", outside, flags=re.S)
    assert not re.findall(r"https?://|src=|@import|url\(", outside)


def test_price_decision_and_confidence_come_first(plan: dict[str, Any], text: str) -> None:
    head = text[: text.index("<nav")]
    best = plan["best"]
    assert head.index("per hour</h1>") < head.index(f"${best['usd_per_year']:,.0f} per year")
    assert "Proven to be the cheapest under the model" in head
    assert f"{best['pools'][0]['time_by_kind'].get('measured', 0):.0%} of the time" in head
    assert 'href="#sure"' in head
    order = [text.index(f'<h2 id="{name}">') for name in ("targets", "sure", "fleet", "others")]
    assert order == sorted(order)


def test_confidence_of_a_sampled_pair_of_pools(plan: dict[str, Any]) -> None:
    pool = plan["best"]["pools"][0]
    shares = [{"measured": 0.25, "analytic": 0.75}, {"measured": 0.9, "analytic": 0.1}]
    pools = [{**pool, "time_by_kind": share} for share in shares]
    sampled = {"search": {**plan["search"], "proven": False}, "best": {"pools": pools}}
    said = confidence(sampled)
    assert said.startswith("Not proven")
    assert "at least 25% of the time of each pool" in said


def test_every_table_and_chart_can_be_heard(text: str) -> None:
    tables = re.findall(r"<table.*?</table>", text.split("<script")[0], re.S)
    assert len(tables) > 8
    for table in tables:
        assert 'th scope="col"' in table
        rows = re.findall(r'<tr role="row">(<t.)', table)
        assert all(first == "<th" for first in rows)
    captions = dict(re.findall(r'<figcaption id="caption-(.*?)">(.*?)</figcaption>', text))
    specs = within(text, "specs")
    assert {name: html.unescape(said) for name, said in captions.items()} == {
        name: spec["description"] for name, spec in specs.items()
    }
    levels = [int(level) for level in re.findall(r"<h([1-6])", text.split("<script")[0])]
    assert levels[0] == 1
    assert set(levels[1:]) == {2}


def test_its_links_lead_somewhere(text: str) -> None:
    shown = text.split("<script")[0]
    ids = re.findall(r' id="(.*?)"', shown)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#(.*?)"', shown)) <= set(ids)


def test_names_from_files_are_no_markup(plan: dict[str, Any]) -> None:
    named = json.loads(json.dumps(plan))
    named["model"]["name"] = "<img src=x onerror=alert(1)></script>"
    shown = page(named, {}, "plan", store=STORE)
    library = max(re.findall(r"<script>.*?</script>", shown, re.S), key=len)
    assert "<img" not in shown.replace(library, "")


def test_without_targets_and_fronts() -> None:
    offline = QUERY.model_copy(
        update={"slo": QUERY.slo.model_copy(update={"ttft": None, "ttit": None})}
    )
    shown = page(solve(offline, store=STORE).to_dict(), {}, "plan", store=STORE)
    assert "throughput alone counts" in shown
    assert "Latency against price" not in shown


def test_fronts_reach_beyond_the_targets() -> None:
    wide = looser(QUERY)
    assert wide.slo.ttit is not None
    assert wide.slo.ttit.seconds == pytest.approx(0.12)
    rows = fronts_of(QUERY, store=STORE)
    assert rows["ttit"]["ttit_s"].max() > 0.03  # type: ignore[operator]
    assert rows["ttft"]["ttit_s"].max() <= 0.03  # type: ignore[operator]


def test_a_front_names_the_kinds_that_it_has() -> None:
    apart = QUERY.model_copy(update={"runtime": ("disaggregated",), "devices": QUERY.devices[:1]})
    rows = fronts_of(apart, store=STORE)["ttit"]
    assert set(rows["kind"]) == {"disaggregated"}
    drawn = front_chart(rows, "ttit", None, None).to_dict()
    colours = [layer["encoding"].get("color", {}) for layer in drawn["layer"]]
    legends = [colour["legend"]["values"] for colour in colours if colour.get("legend")]
    assert legends
    assert all(values == ["disaggregated"] for values in legends)


def test_why_others_lost() -> None:
    best = {"qps": 10.0, "usd_per_hour": 100.0, "capacity_qps": 15.0}
    assert why_lost(best, {**best, "usd_per_hour": 130.0}) == "30.0% dearer"
    assert "25% more capacity" in why_lost(best, {**best, "capacity_qps": 12.0})
    assert "20.0% fewer" in why_lost(best, {**best, "qps": 8.0})


def test_an_incomplete_plan(plan: dict[str, Any]) -> None:
    broken = {**plan, "best": {**plan["best"], "pools": [{"role": "decode"}]}}
    with pytest.raises(InputError, match="not a complete plan"):
        page(broken, {}, "plan.json", store=STORE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any, text: str, tmp_path: Path) -> Iterator[Any]:
    """The page in a browser; fails on what the console says, and on any request."""
    file = tmp_path / "plan.html"
    file.write_text(text, encoding="utf-8")
    context = browser.new_context(viewport={"width": 1200, "height": 800}, accept_downloads=True)
    shown = context.new_page()
    complaints: list[str] = []
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("request", lambda request: complaints.append(request.url))
    shown.goto(file.as_uri())
    shown.wait_for_function("document.querySelectorAll('.chart svg').length >= 7")
    yield shown
    context.close()
    assert [line for line in complaints if line != file.as_uri() and "blob:" not in line] == []


def test_hovering_shows_a_configuration(opened: Any) -> None:
    point = opened.locator("#front-ttit svg .mark-symbol path").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tip = opened.locator("#vg-tooltip-element.visible")
    tip.wait_for()
    assert "attn:TP" in tip.inner_text()


CUT = """() => [...document.querySelectorAll('.scroll, pre')]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"""
"""What is wider than its place."""


def test_a_phone_shows_it_whole(opened: Any) -> None:
    opened.set_viewport_size({"width": 390, "height": 800})
    opened.reload()
    opened.wait_for_function("document.querySelectorAll('.chart svg').length >= 7")
    for summary in opened.locator("summary").all()[:-1]:
        summary.click()
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    assert opened.evaluate(CUT) == []


def test_a_row_of_a_phones_table_names_its_columns(opened: Any) -> None:
    opened.set_viewport_size({"width": 390, "height": 800})
    name = "getComputedStyle(document.querySelector('.stacks td'), '::before').content"
    assert opened.evaluate(name) == '"statistic"'


def test_paper_is_as_wide_as_it(opened: Any) -> None:
    opened.emulate_media(media="print")
    opened.set_viewport_size({"width": 680, "height": 1000})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 680
    assert opened.evaluate(CUT) == []
    kept = "['h2', 'tbody tr', 'figure'].map(n => getComputedStyle(document.querySelector(n)))"
    assert opened.evaluate(f"(s => s.map(x => x.breakAfter + x.breakInside))({kept})") == [
        "avoidauto",
        "avoidavoid",
        "autoavoid",
    ]


def test_names_of_operators_stay_within_their_bars(opened: Any) -> None:
    found = []
    for width in (390, 1366):
        opened.set_viewport_size({"width": width, "height": 800})
        opened.reload()
        opened.wait_for_function("document.querySelectorAll('.chart svg').length >= 7")
        found += opened.evaluate("""() => {
            const bars = e => [...e.querySelectorAll('.mark-rect.layer_0_marks path')];
            const names = e => [...e.querySelectorAll('.mark-text.layer_1_marks text')];
            const width = e => e.getBoundingClientRect().width;
            return [...document.querySelectorAll('[id^=timeline]')].flatMap(e => bars(e).map(
                (bar, i) => [names(e)[i].getAttribute('opacity'), width(names(e)[i]), width(bar)]));
        }""")
    assert len(found) > 10
    assert {opacity for opacity, _, _ in found} == {"0", "1"}
    assert all(name <= bar for opacity, name, bar in found if opacity == "1")


def test_dark_and_print_have_colours_of_their_own(opened: Any) -> None:
    def colours() -> str:
        shown: str = opened.evaluate(
            "getComputedStyle(document.body).color + getComputedStyle("
            "document.querySelector('.chart svg .role-axis-label text')).fill"
        )
        return shown

    light = colours()
    opened.emulate_media(color_scheme="dark")
    dark = colours()
    opened.emulate_media(media="print", color_scheme="dark")
    printed = colours()
    assert len({light, dark, printed}) == 3
    assert "rgb(0, 0, 0)" in printed


def test_it_is_used_by_keyboard(opened: Any) -> None:
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.textContent") == "Skip to the text"
    summary = opened.locator("summary").first
    summary.focus()
    opened.keyboard.press("Enter")
    assert opened.locator("details").first.evaluate("d => d.open")


def test_the_plan_is_saved(opened: Any, plan: dict[str, Any]) -> None:
    with opened.expect_download() as download:
        opened.get_by_role("button", name="Save the plan").click()
    saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(plan))
