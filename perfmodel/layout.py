"""Layouts: how one model replica is spread over devices in one phase.

A layout is seven degrees on `world = pp * tp_a*cp_a*dp_a = pp * tp_f*ep_f*dp_f`
devices. `Layouts` holds many of them as a struct of arrays, the form in which the
space enumerates them and the estimator evaluates them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perfmodel.errors import InputError

IntArray = NDArray[np.int64]

DEGREES = ("pp", "tp_a", "cp_a", "dp_a", "tp_f", "ep_f", "dp_f")
"""Pipeline; attention's tensor, context, data; FFN's tensor, expert, data."""

LARGEST_DEGREE = 4095
"""No spelling asks for more; `modules.base.Shapes` packs degrees below 4096."""


@dataclass(frozen=True, eq=False)
class Layouts:
    """Many layouts, each degree an int64 array of shape (L,)."""

    pp: IntArray
    tp_a: IntArray
    cp_a: IntArray
    dp_a: IntArray
    tp_f: IntArray
    ep_f: IntArray
    dp_f: IntArray

    @classmethod
    def from_rows(cls, rows: Iterable[Iterable[int]] | IntArray) -> Layouts:
        """From rows of seven degrees in the order of `DEGREES`."""
        table = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), dtype=np.int64)
        table = table.reshape(-1, len(DEGREES))
        return cls(*(np.ascontiguousarray(column) for column in table.T))

    def __len__(self) -> int:
        return len(self.pp)

    def __getitem__(self, index: IntArray | NDArray[np.bool_] | NDArray[np.intp]) -> Layouts:
        return Layouts(*(getattr(self, name)[index] for name in DEGREES))

    def rows(self) -> IntArray:
        """Shape (L, 7), columns in the order of `DEGREES`."""
        return np.stack([getattr(self, name) for name in DEGREES], axis=1)

    @property
    def world(self) -> IntArray:
        """Devices of one replica, shape (L,)."""
        return self.pp * self.tp_a * self.cp_a * self.dp_a

    @property
    def stage_world(self) -> IntArray:
        """Devices of one pipeline stage, shape (L,)."""
        return self.tp_a * self.cp_a * self.dp_a

    @property
    def aligned(self) -> NDArray[np.bool_]:
        """FFN shards coincide with attention's TP group: no token ever changes device.

        The FFN then needs one all-reduce; otherwise tokens are scattered and gathered
        (dense) or dispatched and combined (experts).
        """
        aligned: NDArray[np.bool_] = self.tp_f * self.ep_f == self.tp_a
        return aligned

    @property
    def dispatched(self) -> NDArray[np.bool_]:
        """Experts are spread over devices that do not share tokens: these travel to them."""
        dispatched: NDArray[np.bool_] = ~self.aligned & (self.ep_f > 1)
        return dispatched

    @property
    def decode_copies(self) -> IntArray:
        """How many FFN groups process the same decoded token, shape (L,).

        Context-parallel ranks split a prompt's tokens but all hold the decoded ones, and
        each FFN group takes those of the attention ranks it lies on.
        """
        copies: IntArray = np.clip(self.dp_f // self.dp_a, 1, self.cp_a)
        return copies

    @property
    def pooled_ranks(self) -> IntArray:
        """Attention ranks whose tokens meet in `pooled_groups` FFN groups, shape (L,).

        `dp_a / dp_f` in lowest terms: layouts that agree in it pool tokens alike.
        """
        ranks: IntArray = self.dp_a // np.gcd(self.dp_a, self.dp_f)
        return ranks

    @property
    def pooled_groups(self) -> IntArray:
        """FFN groups that share the tokens of `pooled_ranks` attention ranks, shape (L,)."""
        groups: IntArray = self.dp_f // np.gcd(self.dp_a, self.dp_f)
        return groups

    @property
    def dense_tp(self) -> IntArray:
        """In a mixture of experts, over how many devices the dense parts are split, (L,).

        They follow attention's tensor parallelism where the modules are aligned; where
        tokens are dispatched, each device runs them whole on its own tokens.
        """
        return np.where(self.aligned, self.tp_a, 1)


def format_layout(layouts: Layouts, index: int = 0, *, sequence: bool = False) -> str:
    """Spell one layout: `attn:TP2CP2DP2 ffn:TP2EP4 PP1`; degrees of 1 are left out.

    TP is always written, so that each module has at least one degree.

    Args:
        sequence: mark that the engine splits tokens over TP between modules, `attn:TP2SP`.
    """
    value = {name: int(getattr(layouts, name)[index]) for name in DEGREES}

    def module(tp: int, *others: tuple[str, int]) -> str:
        return f"TP{tp}" + "".join(f"{name}{degree}" for name, degree in others if degree > 1)

    split = f"TP{value['tp_a']}"
    attention = module(value["tp_a"], ("CP", value["cp_a"]), ("DP", value["dp_a"]))
    ffn = module(value["tp_f"], ("EP", value["ep_f"]), ("DP", value["dp_f"]))
    if sequence:
        attention = attention.replace(split, f"{split}SP", 1)
    return f"attn:{attention} ffn:{ffn} PP{value['pp']}"


_LAYOUT = re.compile(r"\s*attn:(\S+)\s+ffn:(\S+)(?:\s+PP(\d+))?\s*", re.IGNORECASE)


def parse_layout(text: str) -> Layouts:
    """Read the spelling that `format_layout` writes (FFN's DP may be left to follow).

    The mark `SP` after attention's TP is no degree: whether tokens are split is the engine's
    to decide, step by step.

    Raises:
        InputError: not of that form, or the two modules' devices do not match.
    """
    match = _LAYOUT.fullmatch(text)
    if match is None:
        raise InputError(f"layout {text!r}: expected e.g. 'attn:TP2CP2DP2 ffn:TP2EP4 PP1'")
    unmarked = re.sub(r"(TP\d+)SP(?!\d)", r"\1", match.group(1), flags=re.IGNORECASE)
    attention = _degrees(unmarked, ("TP", "CP", "DP"), text)
    ffn = _degrees(match.group(2), ("TP", "EP", "DP"), text)
    pp = int(match.group(3) or 1)
    devices = attention["TP"] * attention["CP"] * attention["DP"]
    sharded = ffn["TP"] * ffn["EP"]
    dp_f = ffn["DP"] if "DP" in ffn else devices // sharded
    if not 1 <= pp <= LARGEST_DEGREE:
        raise InputError(f"layout {text!r}: PP{pp} is not a degree")
    if sharded * dp_f != devices:
        raise InputError(
            f"layout {text!r}: attention uses {devices} devices per stage, "
            f"the FFN {sharded * dp_f or sharded}"
        )
    return Layouts.from_rows(
        [[pp, attention["TP"], attention["CP"], attention["DP"], ffn["TP"], ffn["EP"], dp_f]]
    )


def _degrees(part: str, names: tuple[str, ...], text: str) -> dict[str, int]:
    found = re.findall(r"([A-Za-z]+)(\d+)", part)
    if "".join(name + number for name, number in found) != part:
        raise InputError(f"layout {text!r}: cannot read {part!r}")
    degrees: dict[str, int] = {name: 1 for name in names if name != "DP" or "EP" not in names}
    for name, number in found:
        if name.upper() not in names or not 1 <= int(number) <= LARGEST_DEGREE:
            raise InputError(
                f"layout {text!r}: {name}{number} is not a degree; expected " + ", ".join(names)
            )
    given = [name.upper() for name, _ in found]
    if len(set(given)) < len(given):
        raise InputError(f"layout {text!r}: {part!r} gives one degree twice")
    for name, number in found:
        degrees[name.upper()] = int(number)
    return degrees
