"""The `planner ui` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from planner.cli_shared import fail

MOST_UPLOAD_MIB = 1


def ui(
    folder: Annotated[
        Path,
        typer.Option(help="Queries and device files to offer; files elsewhere are refused."),
    ] = Path(),
    host: Annotated[
        str, typer.Option(help="Address to listen on; by default this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8501,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Explore in the browser: drag the targets, and see the plan and its price move.

    Needs `pip install 'llm-fleet-planner[ui]'`.

    Example: planner ui --folder examples
    """
    from importlib.util import find_spec

    if find_spec("streamlit") is None:
        fail("planner ui needs Streamlit: pip install 'llm-fleet-planner[ui]'")
    if not folder.is_dir():
        fail(f"{folder}: no such folder")
    from planner.web.explore import queries_in

    known = ", ".join(queries_in(folder)) or f"none, {folder} holds no query file"
    typer.echo(f"The page opens on a built-in query. Under 'Start from': {known}", err=True)
    app = Path(__file__).parent / "web" / "app.py"
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": not browser,
        "server.showEmailPrompt": False,
        "server.maxUploadSize": MOST_UPLOAD_MIB,
        "server.fileWatcherType": "none",
        "runner.magicEnabled": False,
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "minimal",
    }
    arguments = [f"--{name}={str(value).lower()}" for name, value in options.items()]
    command = [sys.executable, "-m", "streamlit", "run", str(app), *arguments]
    # In place of this process, so that what ends it ends the server.
    os.execv(command[0], [*command, "--", str(folder.resolve())])
