"""Reference pages written from the code at every build."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from sphinx.application import Sphinx

from perfmodel.deployments import COLUMNS
from planner.cli import app as planner_app
from planner.schema import KINDS, fields, file_model

FOLDER = Path("reference")

GUIDES = {
    "query": ("The query", "query.md"),
    "catalog": ("Whole catalogs", "catalogs.md"),
    "mix": ("Requests by size", "catalogs.md#requests-by-size"),
}
"""A kind of file -> the page that tells how to write one."""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command as it is typed, with its click object, groups before what is in them."""
    yield from _commands("planner", typer.main.get_command(planner_app))


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for child, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(f"{name} {child}", inner)


def command_text(name: str, command: Any) -> str:
    """One command's section, in Markdown."""
    context = typer.Context(command, info_name=name)
    shown = [one for one in command.params if not getattr(one, "hidden", False)]
    lines = [f"## `{name}`", "", *_prose(command.help or "")]
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    lines += ["```", usage, "```", ""]
    if shown:
        lines += ["| | | |", "|---|---|---|"]
        lines += [_row(one, context) for one in shown]
    return "\n".join([*lines, ""])


def _prose(text: str) -> Iterator[str]:
    for line in text.splitlines():
        example = line.strip().startswith("Example: ")
        yield f"Example: `{line.strip().removeprefix('Example: ')}`" if example else line
    yield ""


def _row(parameter: Any, context: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        names = f"`{parameter.name.upper()}`"
    default = parameter.get_default(context)
    if parameter.required:
        kind = "required"
    elif default is None or default is False or callable(default) or default == ():
        kind = ""
    else:
        kind = f"default `{default}`"
    if parameter.multiple:
        kind = f"{kind}; repeatable".removeprefix("; ")
    return f"| {names} | {_cell(getattr(parameter, 'help', None) or '')} | {kind} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def fields_text(kind: str) -> str:
    """A page of the fields of a kind of file, in Markdown."""
    name = "" if kind == "query" else f" {kind}"
    rows = (
        f"| `{path}` | {_cell(default)} | {_cell(text)} |"
        for path, default, text in fields(file_model(kind))
    )
    return "\n".join(
        [
            f"# Fields of a {kind}",
            "",
            f"What `planner schema{name}` prints; with `--json` it prints the JSON Schema. "
            f"The guide to them is [{GUIDES[kind][0]}](../guide/{GUIDES[kind][1]}).",
            "",
            "| field | default | meaning |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / FOLDER
    commands_page = "\n".join(
        [
            "# Commands",
            "",
            "Written from the commands' own help. [Exit status, colours and completion]"
            "(terminal.md) are the same for all.",
            "",
            *(command_text(name, command) for name, command in commands()),
        ]
    )
    rows_page = "\n".join(
        [
            "# Columns of measured deployments",
            "",
            "What a file for `planner calibrate` holds (CSV), one deployment a row.",
            "",
            "| column | is |",
            "|---|---|",
            *(f"| `{name}` | {_cell(text)} |" for name, text in COLUMNS.items()),
            "",
        ]
    )
    pages = {"commands.md": commands_page, "rows.md": rows_page}
    pages |= {f"{kind}.md": fields_text(kind) for kind in KINDS}
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before sources are looked for."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
