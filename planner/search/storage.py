"""Where studies are kept: in memory, in a journal file, or in a database.

A study holds the trials of one role of one problem. Its name derives from all that an
estimate depends on, so that trials of another question are never taken for its own. A trial
keeps what was estimated of its layout: whoever continues the study computes nothing again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from perfmodel.errors import InputError
from planner.candidates import Candidates, Estimates, Role
from planner.digest import digest, question
from planner.sweep import Space

if TYPE_CHECKING:
    import optuna

PACKED = 2
"""Form in which a trial keeps its candidates: those of another are another study's."""


def open_storage(storage: str | None) -> optuna.storages.BaseStorage:
    """The storage of a path (a journal file) or of a database's URL; None: in memory.

    Raises:
        InputError: the path cannot be written or is no journal, the URL is none, or its
            database cannot be opened.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if storage is None:
        return optuna.storages.InMemoryStorage()
    if "://" in storage:
        try:
            return optuna.storages.RDBStorage(storage)
        except Exception as error:  # any driver's own
            raise _refused(storage, f"the database cannot be opened: {_line(error)}") from error
    path = Path(storage).expanduser()
    if not path.absolute().parent.is_dir():
        raise _refused(storage, "the folder does not exist")
    if path.is_dir():
        raise _refused(storage, "is a folder; expected a journal file or a database's URL")
    try:
        with path.open("a+b") as file:
            file.seek(0)
            first = file.readline()
        if first and "op_code" not in json.loads(first):
            raise ValueError
    except ValueError:
        raise _refused(storage, "is not a journal of studies") from None
    except OSError as error:
        raise _refused(storage, f"cannot be written: {error.strerror}") from error
    return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


def _refused(storage: str, problem: str) -> InputError:
    return InputError(
        f"--storage {storage}: {problem} (a file such as studies.log, or a URL such as "
        "sqlite:///studies.db)"
    )


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def study_name(space: Space, role: Role) -> str:
    """Model, role, and a digest of all that the role's estimates depend on."""
    problem, store = space.problem, space.store
    tables = []
    # A table that was measured anew is another question.
    for offer in problem.offers:
        name = offer.device.tables
        for engine in store.engines(name):
            for family in store.families(name, engine):
                path = store.path(name, engine, family)
                assert path is not None
                tables.append((name, engine, family, hashlib.sha256(path.read_bytes()).digest()))
    whole = digest(PACKED, question(problem), tables)
    model = problem.model.name.split("/")[-1]
    return f"{model}-{role}-{whole[:16]}"


def packed(found: Candidates) -> str:
    """The candidates of one layout as text."""
    est = found.estimates
    table = np.column_stack(
        [found.column, est.pace_s, est.pace_cv2, est.ttit_s, est.ttit_slo_s, est.step_s]
    )
    raw = zlib.compress(np.ascontiguousarray(table, dtype="<f8").tobytes())
    return f"{table.shape[1]}:{base64.b64encode(raw).decode()}"


def unpacked(text: str, row: int, like: Candidates) -> Candidates:
    """What was packed, as candidates of layout `row` over the layouts and axes of `like`."""
    width, coded = text.split(":", 1)
    raw = np.frombuffer(zlib.decompress(base64.b64decode(coded)), dtype="<f8")
    table = raw.reshape(-1, int(width))
    column = table[:, 0].astype(np.int64)
    estimates = Estimates(table[:, 5:], *table.T[1:5])
    return like.subset(np.full(len(column), row, dtype=np.int64), column, estimates)
