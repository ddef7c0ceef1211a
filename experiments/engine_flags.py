"""Which flags engines take: recorded from their own parsers, for the tests of `planner deploy`.

In an environment where an engine is installed (a GPU is not needed):

    python experiments/engine_flags.py record vllm --out tests/planner/deploy/flags_vllm.json
    python experiments/engine_flags.py check vllm deployment    # a folder of `planner deploy`

`record` keeps the name and kind of value of the flags that `planner.deploy` may write, and fails
if the engine knows one of them no more. `check` gives every launch script's words to the engine's
own parser. Both need this project on PYTHONPATH and, beside the engine, NumPy and OR-Tools.
TensorRT-LLM's table is written by hand from its sources, since its wheel is not on PyPI.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

KINDS = {"int": "int", "human_readable_int": "int", "human_readable_int_or_auto": "int"}
"""Parsers' converters of whole numbers."""


def vllm_parser() -> argparse.ArgumentParser:
    """The parser of `vllm serve`."""
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    from vllm.entrypoints.common.cli_args import make_arg_parser  # type: ignore[import-not-found]
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # type: ignore[import-not-found]

    return make_arg_parser(FlexibleArgumentParser())


def sglang_parser() -> argparse.ArgumentParser:
    """The parser of `sglang.launch_server`."""
    from sglang.srt.server_args import ServerArgs  # type: ignore[import-not-found]

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    return parser


PARSERS = {"vllm": vllm_parser, "sglang": sglang_parser}


def kind(action: argparse.Action) -> str:
    """What a flag takes: `flag` (nothing), int, float, str."""
    if action.nargs == 0 or "True" in type(action).__name__ or "Disable" in type(action).__name__:
        return "flag"
    name = getattr(action.type, "__name__", "str")
    return KINDS.get(name, "float" if name == "float" else "str")


def record(engine: str, out: Path) -> None:
    """Write the table of flags that `planner.deploy` may write."""
    from planner.deploy import ENGINES

    known = {name: a for a in PARSERS[engine]()._actions for name in a.option_strings}
    flags: dict[str, Any] = {}
    for name in ENGINES[engine].known_flags:
        action = known.get(name) or known.get(name.replace("--no-", "--", 1))
        if action is None:
            sys.exit(f"{engine} has no {name}")
        flags[name] = {"kind": kind(action)}
        if action.choices:
            flags[name]["choices"] = sorted(map(str, action.choices))
    try:
        found = version(engine)
    except PackageNotFoundError:
        found = ENGINES[engine].version
    source = f"{engine} {found} from PyPI, by its own argument parser"
    table = {"engine": engine, "version": found, "source": source, "flags": flags}
    out.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{out}: {len(flags)} flags of {engine} {found}")


def check(engine: str, folder: Path) -> None:
    """Parse every launch script's command with the engine's parser."""
    for script in sorted((folder / "launch").glob("*.sh")):
        if script.stem == "router":
            continue
        for line in commands(script.read_text()):
            words = line[2:] if engine == "vllm" else line[3:]
            PARSERS[engine]().parse_args(words)
            print(f"{script}: {len(words)} words accepted by {engine}")


def commands(text: str) -> list[list[str]]:
    """The words of each command that a script starts; the first host's for both of its words."""
    joined = text.replace("\\\n", " ")
    joined = re.sub(r'"\$\{NODE_RANK:\?\}"', "0", joined)
    joined = re.sub(r'"\$\{LEADER_ADDRESS:\?\}"', "leader", joined).replace('"$@"', "")
    lines = re.findall(r"^exec (.*)$", joined, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands_ = parser.add_subparsers(required=True, dest="command")
    for name in ("record", "check"):
        one = commands_.add_parser(name)
        one.add_argument("engine", choices=sorted(PARSERS))
        if name == "record":
            one.add_argument("--out", type=Path, required=True)
        else:
            one.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "record":
        record(chosen.engine, chosen.out)
    else:
        check(chosen.engine, chosen.folder)


if __name__ == "__main__":
    main()
