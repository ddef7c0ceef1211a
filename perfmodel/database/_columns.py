"""The parts that families of measured tables are made of: columns, and the family itself.

`perfmodel.database.schema` says what the families are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "integer", "real"]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: its name in the file.
        kind: `text`, `integer` or `real`.
        unit: unit of the value; empty for names and counts.
        meaning: what it is.
        minimum: smallest value of an integer.
        choices: the only values of a text; empty if open.
        storage: polars type that the value has in memory and in shipped files.
        nullable: whether a row may leave it empty, and a file lack it.
        zero: whether a real may be zero, not only more.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    minimum: int = 1
    choices: tuple[str, ...] = ()
    storage: str = "Int32"
    nullable: bool = False
    zero: bool = False


def text(name: str, meaning: str, choices: tuple[str, ...] = ()) -> Column:
    return Column(name, "text", "", meaning, choices=choices, storage="String")


def count(name: str, meaning: str, unit: str = "", minimum: int = 1) -> Column:
    return Column(name, "integer", unit, meaning, minimum)


# Single precision: its 6e-8 is far below the repeatability of a measurement (repeated rows
# of one shape differ by about 1 % in the median), and it halves the shipped size.
TIME = Column("time_s", "real", "s", "time of one call on one device", storage="Float32")

PROVENANCE = (
    text("device", "device's name, as in the device files and the folder"),
    text("engine", "trtllm, vllm, sglang; nccl or pytorch for tables that no engine owns"),
    text("engine_version", "version that was measured"),
    text("kernel", "implementation timed, as its producer names it"),
    text("origin", "the file, in the package or folder, that the row was taken from"),
    text("licence", "SPDX id of the licence of the row"),
)

# Known of some rows only: a file may lack them, and a row leave them empty.
POWER = Column(
    "power_w",
    "real",
    "W",
    "mean power that one device drew meanwhile",
    storage="Float32",
    nullable=True,
)
SPREAD = Column(
    "spread",
    "real",
    "",
    "half of the range of the repeated runs, as a share of time_s",
    storage="Float32",
    nullable=True,
    zero=True,
)
OPTIONAL = (POWER, SPREAD)

DTYPE = text("dtype", "number format of the weights (of queries, for attention)")
KV_DTYPE = text("kv_dtype", "number format of the KV cache")
BATCH = count("batch", "sequences in the call")
NEW = count("tokens", "new tokens per sequence, all of the same length", "tokens")
PREFIX = count("prefix_tokens", "tokens per sequence already in the cache", "tokens", 0)
CONTEXT = count(
    "context_tokens", "cache length that the step attends to, its own token included", "tokens"
)
HEADS = count("heads", "query heads on this device")
GQA = (
    count("q_heads", "query heads on this device"),
    count("kv_heads", "key-value heads on this device (equal to q_heads: multi-head attention)"),
    count("head_dim", "dimensions of a head"),
    count("window_tokens", "sliding window; 0 is full attention", "tokens", 0),
    DTYPE,
    KV_DTYPE,
)
MESSAGE = Column("message_bytes", "integer", "bytes", "payload, see the family", storage="Int64")
DEVICES = count("devices", "devices in the group, all in one fast domain", minimum=2)
MODULE = (
    text("gemm_dtype", "number format of the projections' weights"),
    HEADS,
    DTYPE,
    KV_DTYPE,
    BATCH,
)


@dataclass(frozen=True)
class Family:
    """One kind of operator.

    Attributes:
        name: file name without its ending.
        meaning: what one call does, what the time includes and what it leaves out.
        key: shape columns, unique together; in the order by which shipped files are sorted.
    """

    name: str
    meaning: str
    key: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column that a file must have, in file order."""
        return (*self.key, TIME, *PROVENANCE)

    @property
    def optional(self) -> tuple[Column, ...]:
        """Columns that a file may have, after the others."""
        return OPTIONAL

    @property
    def key_names(self) -> tuple[str, ...]:
        """Names of the shape columns."""
        return tuple(column.name for column in self.key)
