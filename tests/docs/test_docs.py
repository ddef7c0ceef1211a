"""The documentation: it builds strictly and offline, and its tutorial does what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

BUILD = """
import socket, sys
def refuse(*_): raise OSError("the build asked for the network")
socket.socket.connect = socket.getaddrinfo = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built with warnings as errors where no connection can be made."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("built")
    strictly = ["-W", "--keep-going", "-q", "-d", folder / "trees"]
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *strictly, DOCS, folder / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder / "html"


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_reference_has_every_command_and_field(built: Path) -> None:
    from planner.schema import KINDS, fields, file_model

    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        from generated import commands
    finally:
        sys.path.pop(0)
    page = text_of(built / "reference" / "commands.html")
    names = [name for name, _ in commands()]
    assert "planner perfdb collect" in names
    for name in names:
        assert name in page
    for kind in KINDS:
        page = text_of(built / "reference" / f"{kind}.html")
        for path, _, _ in fields(file_model(kind)):
            assert path in page


def test_pages_ask_nothing_of_the_network(built: Path) -> None:
    pages = list(built.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]*rel=\"stylesheet\"[^>]*href=\"([^\"]+)\"", text)
        assert not [one for one in loaded if re.match(r"(https?:)?//", one)], page


def test_equations_are_mathml(built: Path) -> None:
    page = (built / "model" / "queueing.html").read_text(encoding="utf-8")
    assert page.count("<math") >= 4
    assert "\\frac" not in page


def test_tutorial_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(DOCS / "_ext")
    import tutorial

    shown = tutorial.PAGE.read_text(encoding="utf-8")
    assert tutorial.run(shown) == shown
    assert (tmp_path / tutorial.FIGURE).read_text().startswith("<svg")


def test_a_tutorial_that_shows_something_else_is_found(tmp_path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("cells", DOCS / "_ext" / "tutorial.py")
    assert spec is not None
    assert spec.loader is not None
    cells = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cells)
    page = "# A\n\n```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```text\n{}\n```\n"
    assert cells.run(page.format(2)) == page.format(2)
    assert cells.run(page.format(3)) == page.format(2)
