"""A YAML document that extends another: what it says replaces what the other said.

Mappings are joined field by field; lists whose items have names are joined by name, the
base's items first; everything else is replaced whole. Every field keeps the file and the
line it was written on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perfmodel.documents import Document, FieldPath

FIGURE = ("value", "source")
"""A mapping with the first of these keys is one figure: replaced with its source."""


def extend(own: Document, base: Document) -> Document:
    """`own` laid over `base`, both mappings at the top."""
    joined = _Joined()
    data = joined.join(own, (), own.data, base, (), base.data, ())
    return Document(own.path, data, joined.lines, joined.files)


@dataclass
class _Joined:
    """Where each field of the result was written."""

    lines: dict[FieldPath, int] = field(default_factory=dict)
    files: dict[FieldPath, Path] = field(default_factory=dict)

    def join(
        self,
        own: Document,
        own_field: FieldPath,
        over: Any,
        base: Document,
        base_field: FieldPath,
        under: Any,
        to: FieldPath,
    ) -> Any:
        """One value over another; the field's place in either document, and in the result."""
        if isinstance(over, dict) and isinstance(under, dict) and FIGURE[0] not in over:
            self._place(own, own_field, to)
            return {
                key: self.join(
                    own,
                    (*own_field, key),
                    over[key],
                    base,
                    (*base_field, key),
                    under[key],
                    (*to, key),
                )
                if key in over and key in under
                else self._copy(own, (*own_field, key), over[key], (*to, key))
                if key in over
                else self._copy(base, (*base_field, key), under[key], (*to, key))
                for key in (*under, *(key for key in over if key not in under))
            }
        if _named(over) and _named(under):
            self._place(own, own_field, to)
            at = {item["name"]: i for i, item in enumerate(over)}
            old = {item["name"]: i for i, item in enumerate(under)}
            result: list[Any] = []
            for name in (*old, *(name for name in at if name not in old)):
                place = (*to, len(result))
                if name in at and name in old:
                    i, j = at[name], old[name]
                    item = self.join(
                        own, (*own_field, i), over[i], base, (*base_field, j), under[j], place
                    )
                elif name in at:
                    item = self._copy(own, (*own_field, at[name]), over[at[name]], place)
                else:
                    item = self._copy(base, (*base_field, old[name]), under[old[name]], place)
                result.append(item)
            return result
        return self._copy(own, own_field, over, to)

    def _place(self, document: Document, at: FieldPath, to: FieldPath) -> None:
        if at in document.lines:
            self.lines[to] = document.lines[at]
            self.files[to] = document.files.get(at, document.path)

    def _copy(self, document: Document, at: FieldPath, value: Any, to: FieldPath) -> Any:
        for known in document.lines:
            if known[: len(at)] == at:
                self._place(document, known, (*to, *known[len(at) :]))
        return value


def _named(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    names = [item.get("name") if isinstance(item, dict) else None for item in value]
    return all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
