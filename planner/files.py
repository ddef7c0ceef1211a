"""Files that are written whole or not at all, and refused before any work is done for them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from perfmodel.errors import ConfigError


def as_text(data: dict[str, Any], path: Path) -> str:
    """Plain data as the YAML or JSON that a file of this name holds."""
    plain = json.loads(json.dumps(data))
    if path.suffix in (".yaml", ".yml"):
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return json.dumps(plain, indent=2) + "\n"


def check_writable(*paths: Path | None) -> None:
    """Refuse files that can't be written, before any work is done for them; None: no file.

    Raises:
        ConfigError: no such folder, a folder itself, or not allowed.
    """
    for path in filter(None, paths):
        folder = path.absolute().parent
        if not folder.is_dir():
            raise ConfigError(f"{path}: the folder does not exist")
        if path.is_dir():
            raise ConfigError(f"{path}: is a folder; expected a file to write")
        replaced = not path.exists() or path.is_file()
        if not os.access(folder if replaced else path, os.W_OK):
            raise ConfigError(f"{path}: cannot be written: permission denied")


def atomic_write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigError: it cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():  # a pipe or terminal, which nothing replaces
            path.write_text(text, encoding="utf-8")
            return
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
