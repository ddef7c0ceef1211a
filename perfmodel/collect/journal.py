"""The journal of a collection: every measured row on disk soon after it was measured.

A file of JSON lines, each `{"crc": ..., "row": {...}}`; the first names what was measured, so
that a collection is never continued on another machine or library. A last line torn by a
crash is dropped; damage anywhere else is refused, for rows would silently go missing.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from perfmodel.collect.measure import Key, Sample
from perfmodel.errors import InputError

SYNC_S = 1.0
"""A crash of the machine loses at most the rows of so many seconds."""

RowId = tuple[str, tuple[tuple[str, int | str], ...]]


def row_id(family: str, key: Key) -> RowId:
    """A row's identity: family and shape."""
    return family, tuple(sorted(key.items()))


class Journal:
    """Rows measured so far, appended to a file as they come.

    Lifetime: open for one collection, as a context manager; closing syncs. One process at a
    time may write a journal.

    Args:
        path: the file; made if absent.
        identity: what the rows are of (device, library, version).

    Raises:
        InputError: the file is damaged, or is of another identity.
    """

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        self.path = path
        self.rows: dict[RowId, Sample | None] = {}
        self.notes: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = self._read(dict(identity)) if path.exists() else 0
        self._file = path.open("ab")
        # What a torn line left would otherwise run into the next one.
        self._file.truncate(kept)
        self._synced = time.monotonic()
        if not kept:
            self._append({"identity": dict(identity)})
            self.sync()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sync()
        self._file.close()

    def add(self, family: str, key: Key, sample: Sample | None) -> None:
        """Write a row down; `sample` is None for a shape that cannot be measured here."""
        self.rows[row_id(family, key)] = sample
        value = None if sample is None else asdict(sample)
        self._append({"family": family, "key": dict(key), "sample": value})
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def note(self, name: str, value: Any) -> None:
        """Write down something else that a continued collection must find again (JSON)."""
        self.notes[name] = value
        self._append({"note": name, "value": value})

    def sync(self) -> None:
        """Force what was added to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _append(self, row: Mapping[str, Any]) -> None:
        text = json.dumps(row, sort_keys=True)
        line = json.dumps({"crc": _checksum(text), "row": row}, sort_keys=True)
        self._file.write(line.encode() + b"\n")
        # To the operating system at once: a killed process then loses nothing.
        self._file.flush()

    def _read(self, identity: dict[str, str]) -> int:
        """Take over the rows of the file; returns how many of its bytes are sound."""
        data = self.path.read_bytes()
        lines = data.split(b"\n")
        # Behind the last newline is nothing, or a line that was not finished.
        whole = lines[:-1]
        for number, line in enumerate(whole, start=1):
            row = _row(line)
            if row is None:
                raise InputError(
                    f"{self.path}:{number}: damaged line (its checksum does not match); "
                    "remove the line, or the file to measure everything again"
                )
            if number == 1:
                self._same(identity, row.get("identity"))
            elif "note" in row:
                self.notes[row["note"]] = row["value"]
            else:
                sample = row["sample"]
                self.rows[row_id(row["family"], row["key"])] = (
                    None if sample is None else Sample(**sample)
                )
        return sum(len(line) + 1 for line in whole)

    def _same(self, identity: dict[str, str], found: object) -> None:
        if found != identity:
            raise InputError(
                f"{self.path}: a journal of {found}, but this machine is {identity}; "
                "give another destination, or do not resume"
            )


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _row(line: bytes) -> dict[str, Any] | None:
    """The row of a line, or None if the line is not sound."""
    try:
        entry = json.loads(line)
        row = entry["row"]
        sound = isinstance(row, dict) and entry["crc"] == _checksum(json.dumps(row, sort_keys=True))
    except (ValueError, KeyError, TypeError):
        return None
    return row if sound else None
