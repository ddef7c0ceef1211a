"""One role's study: which layout a trial is, and what was found of it.

A trial's parameters are a part (device and precision) and a fraction per degree: of the
values that some feasible layout still has, given the degrees before it. So no trial is
infeasible, near fractions are near degrees, and any sampler can draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from perfmodel.layout import DEGREES
from planner.candidates import Candidates, Role
from planner.search.parts import Part, price
from planner.search.storage import packed, unpacked
from planner.sweep import Space

if TYPE_CHECKING:
    import optuna

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Key = tuple[int, int]
"""A part, and a row of its layouts."""

ABANDONED = timedelta(seconds=60)
"""A trial that runs for longer was left behind by a process that ended."""


class RoleTrials:
    """The trials of one role, those of other processes that share the study included.

    Lifetime: `sync` reads the study; `seed` and `sample` add one evaluated layout or none, each
    a trial of its own; `found` is what all of them found.
    """

    def __init__(
        self, space: Space, role: Role, parts: Sequence[Part], study: optuna.Study
    ) -> None:
        self.space = space
        self.role = role
        self.parts = parts
        self.study = study
        self.found: dict[Key, Candidates] = {}
        self.prices: dict[Key, float] = {}
        self.least = [part.least_price(space.problem) for part in parts]
        # Layouts that may still matter: feasible as far as bounds tell, and not dear by them.
        self.open = [part.most_qps > 0 for part in parts]
        none = np.zeros(0, dtype=np.int64)
        self._like = [
            space.evaluate(role, part.offer, part.precision, part.layouts, rows=none)
            for part in parts
        ]
        self._read = 0
        self.sync()

    def sync(self) -> None:
        """Take up what other processes found, and what they are evaluating."""
        self._running: set[Key] = set()
        since = datetime.now() - ABANDONED
        for trial in self.study.get_trials(deepcopy=False):
            if "layout" not in trial.user_attrs:
                continue
            which, row = trial.user_attrs["layout"]
            key = (int(which), int(row))
            if key in self.found:
                continue
            if "found" in trial.user_attrs:
                text = trial.user_attrs["found"]
                self._keep(key, unpacked(text, key[1], self._like[key[0]]))
            elif trial.datetime_start is not None and trial.datetime_start > since:
                self._running.add(key)

    def unseen(self) -> list[BoolArray]:
        """By part: layouts that were not evaluated and have a feasible batch as far as known."""
        masks = [part.most_qps > 0 for part in self.parts]
        for which, row in self.found:
            masks[which][row] = False
        return masks

    def close(self, dear: Sequence[BoolArray]) -> None:
        """Leave out layouts with which no fleet is cheaper than one that is known."""
        for open_, of_part in zip(self.open, dear, strict=True):
            open_ &= ~of_part

    def seed(self) -> bool:
        """Evaluate the open layout of the least bound on its price; False if there is none."""
        best: tuple[float, Key] | None = None
        for which, least in enumerate(self.least):
            free = self._free(which)
            if not free.any():
                continue
            row = int(np.where(free, least, np.inf).argmin())
            if best is None or least[row] < best[0]:
                best = (float(least[row]), (which, row))
        if best is None:
            return False
        self._place(best[1])
        return True

    def sample(self) -> bool:
        """Evaluate a layout that the sampler draws, or an open one near it; False: none is left."""
        if not any(self._free(which).any() for which in range(len(self.parts))):
            return False
        trial = self.study.ask()
        key = self._drawn(trial)
        if self._free(key[0])[key[1]]:
            self._evaluate(trial, key)
            return True
        # Nothing new: what is known of it is told, and its nearest open neighbour tried.
        self.study.tell(trial, self.prices.get(key, float(self.least[key[0]][key[1]])))
        near = self._near(key)
        if near is None:
            return self.seed()
        self._place(near)
        return True

    def _free(self, which: int) -> BoolArray:
        free = self.open[which].copy()
        taken = [row for w, row in (*self.found, *self._running) if w == which]
        free[taken] = False
        return free

    def _place(self, key: Key) -> None:
        """Evaluate a layout as a trial with the parameters from which it is drawn."""
        self.study.enqueue_trial(self._parameters(key))
        trial = self.study.ask()
        # Another process may have taken it from the queue, and this one another's.
        drawn = self._drawn(trial)
        if drawn in self.found:
            self.study.tell(trial, self.prices[drawn])
        else:
            self._evaluate(trial, drawn)

    def _evaluate(self, trial: optuna.Trial, key: Key) -> None:
        trial.set_user_attr("layout", list(key))
        part = self.parts[key[0]]
        found = self.space.evaluate(
            self.role, part.offer, part.precision, part.layouts, rows=np.array([key[1]])
        )
        trial.set_user_attr("found", packed(found))
        self._keep(key, found)
        self.study.tell(trial, self.prices[key])

    def _keep(self, key: Key, found: Candidates) -> None:
        self.found[key] = found
        self.prices[key] = price(self.space.problem, found)

    def _near(self, key: Key) -> Key | None:
        """The open layout of a part nearest to a given one, by doublings of degrees."""
        which, row = key
        logs = self.parts[which].logs
        distance = np.abs(logs - logs[row]).sum(axis=1)
        free = np.flatnonzero(self._free(which))
        if len(free) == 0:
            return None
        # Of equally near ones the one of the least bound.
        return which, int(free[np.lexsort((self.least[which][free], distance[free]))[0]])

    def _drawn(self, trial: optuna.Trial) -> Key:
        which = int(trial.suggest_categorical("part", list(range(len(self.parts)))))

        def value(column: int, values: NDArray[np.int64]) -> int:
            fraction = trial.suggest_float(DEGREES[column], 0.0, 1.0)
            return int(values[min(int(fraction * len(values)), len(values) - 1)])

        return which, self._descend(which, value)

    def _parameters(self, key: Key) -> dict[str, float | int]:
        """The parameters from which `_drawn` draws a given layout."""
        which, row = key
        wanted = self.parts[which].layouts.rows()[row]
        parameters: dict[str, float | int] = {"part": which}

        def value(column: int, values: NDArray[np.int64]) -> int:
            position = int(np.searchsorted(values, wanted[column]))
            parameters[DEGREES[column]] = (position + 0.5) / len(values)
            return int(wanted[column])

        self._descend(which, value)
        return parameters

    def _descend(self, which: int, value: Callable[[int, NDArray[np.int64]], int]) -> int:
        """The layout whose degrees are chosen one after another among those that remain."""
        rows = self.parts[which].layouts.rows()
        index = np.arange(len(rows))
        for column in range(len(DEGREES)):
            chosen = value(column, np.unique(rows[index, column]))
            index = index[rows[index, column] == chosen]
        return int(index[0])
