"""What the page of `planner ui` computes, and the page itself in a browser."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from perfmodel.database import PerfStore
from perfmodel.errors import ConfigError
from planner.evaluated import Evaluated
from planner.query import Query
from planner.solve import solve
from planner.web.explore import (
    MOST_UPLOAD_BYTES,
    brought,
    devices_in,
    queries_in,
    query_text,
    search,
    search_key,
    view,
)

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
STORE = PerfStore()
SMALL: dict[str, Any] = {
    "model": "Qwen/Qwen3-8B",
    "workload": {"qps": 20, "input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "500ms", "ttit": "30ms"},
    "devices": ["h100_sxm", "l40s"],
    "search": {"max_replica_devices": 4},
}


def query(**changes: Any) -> Query:
    return Query.model_validate({**SMALL, **changes})


@pytest.fixture(scope="module")
def found() -> Evaluated:
    return search(query(), store=STORE)


@pytest.mark.parametrize("ttit", ["8ms", "15ms", "30ms", "200ms"])
def test_every_position_shows_the_plan_of_its_own_query(found: Evaluated, ttit: str) -> None:
    asked = query(slo={"ttft": "400ms", "ttit": ttit})
    assert search_key(asked) == search_key(query())
    shown, plan = view(found, asked), solve(asked, store=STORE)
    assert shown.plan is not None
    assert shown.plan.best == plan.best
    assert set(shown.figures) == {"ttit", "ttft"}


def test_where_no_fleet_serves(found: Evaluated) -> None:
    shown = view(found, query(slo={"ttit": "1ms"} | {"ttft": "500ms"}))
    assert shown.plan is None
    assert "no fleet" in shown.problem
    assert shown.figures["ttit"]["layer"]


def test_what_needs_a_search_of_its_own() -> None:
    one = search_key(query())
    priced = [{"name": "h100_sxm", "usd_per_device_hour": 1.0}, "l40s"]
    assert search_key(query(devices=priced)) == one
    assert search_key(query(workload={**SMALL["workload"], "qps": 3})) == one
    for changes in (
        {"slo": {"ttft": {"p99": "500ms"}, "ttit": "30ms"}},
        {"slo": {"ttit": "30ms"}},
        {"devices": ["h100_sxm"]},
        {"workload": {**SMALL["workload"], "output_tokens": 101}},
        {"engine": "vllm"},
    ):
        assert search_key(query(**changes)) != one


def test_queries_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "chat_bot.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "notes.yaml").write_text("hello: there\n")
    (tmp_path / "broken.yaml").write_text("a: [\n")
    assert queries_in(tmp_path) == {"chat bot": tmp_path / "chat_bot.yaml"}


def test_devices_of_a_folder_are_those_that_read_as_devices(tmp_path: Path) -> None:
    (tmp_path / "chat_bot.yaml").write_text(yaml.safe_dump(SMALL))
    (tmp_path / "broken.yaml").write_text("a: [\n")
    (tmp_path / "my_h100.yaml").write_text("extends: h100_sxm\n")
    found = devices_in(tmp_path)
    assert {"my_h100", "h100_sxm", "l40s"} <= set(found)
    assert not {"chat_bot", "broken"} & set(found)


def test_a_query_is_saved_as_it_was_asked(tmp_path: Path) -> None:
    asked = query()
    assert brought(query_text(asked).encode(), tmp_path).model_dump() == asked.model_dump()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"model: [", "not valid YAML"),
        (b"\xff\xfe", "UTF-8"),
        (b"- 1", "expected"),
        (b"#" * (MOST_UPLOAD_BYTES + 1), "larger"),
        (yaml.safe_dump({**SMALL, "model": "/etc/passwd"}).encode(), "outside"),
        (yaml.safe_dump({**SMALL, "model": "../model.json"}).encode(), "outside"),
        (yaml.safe_dump({**SMALL, "devices": ["/dev/x.yaml"]}).encode(), "outside"),
        (yaml.safe_dump({**SMALL, "corrections": "../c.yaml"}).encode(), "outside"),
    ],
    ids=["yaml", "text", "list", "large", "model", "relative", "device", "corrections"],
)
def test_what_is_brought_along_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        brought(text, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running `planner ui`."""
    pytest.importorskip("streamlit")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    folder = tmp_path_factory.mktemp("served")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "planner.cli", "ui", "--no-browser", "--port", str(port)]
    environment = {**os.environ, "HOME": str(folder)}
    with subprocess.Popen(
        [*command, "--folder", str(folder)], stdout=subprocess.DEVNULL, env=environment
    ) as process:
        address = f"http://127.0.0.1:{port}"
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"{address}/_stcore/health", timeout=1):
                    break
            except OSError:
                assert process.poll() is None
                time.sleep(0.2)
        yield address
        process.terminate()


def test_the_page_in_a_browser(served: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=arguments)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(90_000)
        places, complaints = set(), []
        page.on("request", lambda request: places.add(request.url.split("?")[0]))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(served)
        start = page.get_by_role("combobox", name="Start from")
        start.click()
        page.get_by_role("option", name="small").click()
        page.get_by_text("with Qwen/Qwen3-8B").wait_for()
        title = page.get_by_role("heading", name="per hour")
        before = title.inner_text()

        # A target that nothing meets, and back.
        slider = page.get_by_role("slider").nth(1)
        slider.focus()
        page.keyboard.press("Home")
        page.get_by_role("heading", name="No fleet serves this").wait_for()
        page.keyboard.press("End")
        title.wait_for()

        with page.expect_download() as download:
            page.get_by_role("button", name="Save the plan").click()
        plan = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
        assert f"${plan['best']['usd_per_hour']:,.2f}" in before
        assert plan["query"]["slo"]["ttit"]["seconds"] == 0.2
        # A price that nobody changed stays the list's, and so keeps its source.
        assert all("usd_per_device_hour" not in device for device in plan["query"]["devices"])
        assert plan["best"]["hosts"][0]["price_source"].startswith("on-demand")

        page.set_viewport_size({"width": 390, "height": 844})
        tables = page.locator("main table, section table")
        assert tables.count() >= 2
        for table in tables.all():
            wide = "e => e.parentElement.scrollWidth - e.parentElement.clientWidth"
            assert table.evaluate(wide) <= 1
        page.set_viewport_size({"width": 1300, "height": 1000})

        bad = tmp_path / "bad.yaml"
        bad.write_text(yaml.safe_dump({**SMALL, "model": "/etc/passwd"}))
        page.locator("input[type=file]").set_input_files(bad)
        page.get_by_text("lies outside of the folder").wait_for()
        browser.close()
    assert complaints == []
    assert all(
        place.startswith((served, served.replace("http", "ws"), "data:", "blob:"))
        for place in places
    )
