"""The tutorial's cells: run them, and write what they print below each.

`python docs/_ext/tutorial.py` runs the page and brings what it shows up to date.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "tutorial.md"
FIGURE = "front.svg"

CELL = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<shown>.*?)```\n)?", re.DOTALL)


def run(text: str) -> str:
    """The page with what its cells print, all run in one namespace in the current folder."""
    names: dict[str, Any] = {"__name__": "tutorial"}

    def executed(cell: re.Match[str]) -> str:
        printed = io.StringIO()
        line = text[: cell.start("code")].count("\n")
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + cell["code"], str(PAGE), "exec"), names)
        shown = f"\n```text\n{printed.getvalue()}```\n" if printed.getvalue() else ""
        return f"```python\n{cell['code']}```\n{shown}"

    return CELL.sub(executed, text)


def main() -> None:
    """Bring the page and its figure up to date."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            text = run(PAGE.read_text(encoding="utf-8"))
            shutil.copy(FIGURE, PAGE.parent / "_static" / FIGURE)
        finally:
            os.chdir(before)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
