"""Fields of a JSON configuration, read with their types checked and their place remembered.

The readers of Hugging Face files ask this module for each field, so that each mistake is
reported the same way: file, line where it is unambiguous, field, what was expected.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from perfmodel.documents import read_text
from perfmodel.errors import ConfigError

# Beyond any real model, and small enough that no arithmetic or loop on it runs away.
_LARGEST_COUNT = 2**31 - 1


@dataclass(frozen=True)
class Fields:
    """A JSON object with the name and text of the file it came from.

    Attributes:
        data: the object.
        source: the file, for messages; empty if there was none.
        text: the file's text, to find a field's line; empty if there was none.
        prefix: dotted path of this object within the file.
    """

    data: Mapping[str, Any]
    source: str = ""
    text: str = ""
    prefix: str = ""

    def fail(self, field: str, problem: str) -> NoReturn:
        """Raise a `ConfigError` about `field`, with its line if the file has it once."""
        source = self.source
        key = json.dumps(field)
        if source and self.text.count(key) == 1:
            source += f":{self.text[: self.text.index(key)].count(chr(10)) + 1}"
        raise ConfigError(problem, source=source, field=self.prefix + field)

    def has(self, field: str) -> bool:
        """Whether the field is there and not null."""
        return self.data.get(field) is not None

    def count(
        self, field: str, default: int | None = None, *, minimum: int = 1, maximum: int = 0
    ) -> int:
        """An integer from `minimum` to `maximum` (0: any that fits 31 bits).

        Raises:
            ConfigError: it is absent or null with no default, or not such an integer.
        """
        value = self.data.get(field)
        limit = maximum or _LARGEST_COUNT
        expected = f"an integer from {minimum} to {limit:,}"
        if value is None and default is not None:
            return default
        if value is None:
            self.fail(field, f"this field is required; expected {expected}")
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(field, f"expected {expected}, got {_shown(value)}")
        if not minimum <= value <= limit:
            self.fail(field, f"expected {expected}, got {_shown(value)}")
        return value

    def flag(self, field: str, default: bool = False) -> bool:
        """A true or false; null and absent are `default`.

        Raises:
            ConfigError: it is something else.
        """
        value = self.data.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(field, f"expected true or false, got {_shown(value)}")
        return value

    def string(self, field: str, default: str = "") -> str:
        """A string; null and absent are `default`.

        Raises:
            ConfigError: it is something else.
        """
        value = self.data.get(field)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(field, f"expected a string, got {_shown(value)}")
        return value

    def strings(self, field: str) -> list[str]:
        """A list of strings; null and absent are the empty list.

        Raises:
            ConfigError: it is something else.
        """
        value = self.data.get(field)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.fail(field, f"expected a list of strings, got {_shown(value)}")
        return value

    def counts(self, field: str, *, minimum: int = 0) -> list[int]:
        """A list of integers from `minimum`; null and absent are the empty list.

        Raises:
            ConfigError: it is something else.
        """
        value = self.data.get(field)
        if value is None:
            return []
        whole = isinstance(value, list) and all(
            isinstance(item, int) and not isinstance(item, bool) and item >= minimum
            for item in value
        )
        if not whole:
            self.fail(field, f"expected a list of integers from {minimum}, got {_shown(value)}")
        return list(value)

    def nested(self, field: str) -> Fields | None:
        """The object under `field`; None if absent, null or empty.

        Raises:
            ConfigError: it is something else.
        """
        value = self.data.get(field)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.fail(field, f"expected an object, got {_shown(value)}")
        if not value:
            return None
        return Fields(value, self.source, self.text, f"{self.prefix}{field}.")


def read_json(path: Path) -> Fields:
    """Read a JSON file that holds one object.

    Raises:
        ConfigError: the file is missing, not UTF-8, not JSON (with line and column), or
            holds something other than an object.
    """
    source = str(path)
    text = read_text(path, "JSON")
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        where = f"{source}:{error.lineno}:{error.colno}"
        raise ConfigError(f"not valid JSON: {error.msg}", source=where) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid JSON: {error}", source=source) from None
    if not isinstance(data, dict):
        raise ConfigError(f"expected a JSON object, got {_shown(data)}", source=source)
    return Fields(data, source, text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields; a name given twice is refused, where JSON would keep the last."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        name = next(name for name, count in Counter(n for n, _ in pairs).items() if count > 1)
        raise ValueError(f"{name!r} is given twice in one object")
    return fields


def _shown(value: object) -> str:
    """A value as JSON, short enough for one line of a message."""
    try:
        shown = json.dumps(value)
    except (TypeError, ValueError):
        return f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else shown[:57] + "..."
