"""Command-line flags as values, as words of a command, and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Flags = Mapping[str, Any]
"""By name (with dashes): True for a bare flag, a number, a text, or a mapping (JSON)."""

LEADER, RANK, ADDRESS = "@leader@", "@rank@", "@address@"
"""Stand for the address of a replica's first host, for the host's number among them, and for its
own address."""

CONFIG, HOSTFILE = "@config@", "@hostfile@"
"""Stand for the folder of configuration files, and for MPI's list of hosts."""


def put(line: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Words with what stands for something replaced."""
    found = list(line)
    for name, value in values.items():
        found = [word.replace(name, value) for word in found]
    return found


def words(flags: Flags) -> list[str]:
    """Flags as the words of a command line; those that are None or False are left out."""
    found = []
    for name, value in flags.items():
        if value is None or value is False:
            continue
        found.append(name)
        if isinstance(value, Mapping):
            found.append(json.dumps(value, separators=(",", ":")))
        elif value is not True:
            found.append(str(value))
    return found


def read_words(line: Sequence[str]) -> dict[str, Any]:
    """The flags among the words of a command line, with numbers and JSON as values."""
    flags: dict[str, Any] = {}
    name = None
    for word in line:
        if word.startswith("--"):
            name = word
            flags[name] = True
        elif name is not None:
            flags[name] = _value(word)
            name = None
    return flags


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word
