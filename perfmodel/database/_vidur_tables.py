"""How each profile of Vidur is read as one of our families.

Its columns are `time_stats.<operation>.<min, max, mean, median, std>` in ms, then the shape: of
the whole model, which `num_tensor_parallel_workers` divides. Network sizes are bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from perfmodel.database.checks import TableError, check_column
from perfmodel.database.schema import Column


@dataclass(frozen=True)
class Sheet:
    """A profile: its rows as they are written, and where they come from."""

    path: Path
    rows: pl.DataFrame

    @staticmethod
    def of(path: Path) -> Sheet:
        """Read a file.

        Raises:
            TableError: it is not CSV, is empty, or ends within a line.
            OSError: it cannot be read.
        """
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            raise TableError(path, "cut off: its last line has no end")
        try:
            # All as text: a number is then checked where its column is used, with its row.
            rows = pl.read_csv(io.BytesIO(content), infer_schema=False)
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TableError(path, f"not a readable CSV file ({reason})") from None
        if rows.is_empty():
            raise TableError(path, "it holds no row")
        return Sheet(path, rows.with_row_index("_row", offset=1))

    def error(self, problem: str, column: str, wrong: pl.Series) -> TableError:
        """An error in the first of the rows that are wrong."""
        return TableError(self.path, problem, column, self.rows["_row"][wrong.arg_max() or 0])

    def has(self, column: str) -> bool:
        """Whether the file has the column."""
        return column in self.rows.columns

    def where(self, kept: pl.Series) -> Sheet:
        """The rows for which `kept` holds."""
        return Sheet(self.path, self.rows.filter(kept))

    def text(self, column: str, choices: tuple[str, ...] = ()) -> pl.Series:
        """A column of words.

        Raises:
            TableError: it is missing, or a row's is empty or not among the choices.
        """
        if column not in self.rows.columns:
            raise TableError(self.path, "missing", column)
        return self._check(self.rows[column], Column(column, "text", "", "", choices=choices))

    def integers(self, column: str, minimum: int = 1) -> pl.Series:
        """A column of counts.

        Raises:
            TableError: it is missing, or a row's is no integer of at least the minimum.
        """
        values = self._cast(column, pl.Int64, "an integer")
        kind = Column(column, "integer", "", "", minimum, storage="Int64")
        return self._check(values, kind)

    def seconds(self, operation: str) -> pl.Series:
        """Median times of an operation.

        Raises:
            TableError: its column is missing, or a row's is no number above 0.
        """
        return self._times(operation, "median") / 1e3

    def spread(self, operation: str) -> pl.Series:
        """Half of the range of its repeated runs, as a share of the median; null if not kept.

        Raises:
            TableError: as `seconds`, or its least is above its greatest.
        """
        if not self.has(f"time_stats.{operation}.min"):
            return pl.Series([None] * self.rows.height, dtype=pl.Float64)
        low, high = self._times(operation, "min"), self._times(operation, "max")
        crossed = low > high
        if crossed.any():
            raise self.error("above the max", f"time_stats.{operation}.min", crossed)
        return (high - low) / 2 / self._times(operation, "median")

    def _times(self, operation: str, statistic: str) -> pl.Series:
        name = f"time_stats.{operation}.{statistic}"
        values = self._cast(name, pl.Float64, "a number")
        self._check(values, Column(name, "real", "ms", ""))
        return values

    def _check(self, values: pl.Series, column: Column) -> pl.Series:
        try:
            return check_column(values, column, self.path)
        except TableError as error:
            row = self.rows["_row"][error.row - 1] if error.row else 0
            raise TableError(self.path, error.problem, error.column, row) from None

    def _cast(self, column: str, kind: type[pl.DataType], expected: str) -> pl.Series:
        words = self.text(column)
        values = words.cast(kind, strict=False)
        wrong = values.is_null()
        if wrong.any():
            word = words[wrong.arg_max() or 0]
            raise self.error(f"expected {expected}, got {word!r}", column, wrong)
        return values


def _share(sheet: Sheet, what: pl.Series, column: str) -> pl.Series:
    """What a device has of the model's.

    Raises:
        TableError: the devices don't divide it.
    """
    devices = sheet.integers("num_tensor_parallel_workers")
    uneven = what % devices != 0
    if uneven.any():
        row = uneven.arg_max() or 0
        problem = f"{what[row]} is not divided by {devices[row]} devices"
        raise sheet.error(problem, column, uneven)
    return what // devices


def _head_dim(sheet: Sheet, heads: str) -> pl.Series:
    width, count = sheet.integers("n_embd"), sheet.integers(heads)
    uneven = width % count != 0
    if uneven.any():
        row = uneven.arg_max() or 0
        raise sheet.error(f"{width[row]} is not divided by {count[row]} heads", "n_embd", uneven)
    return width // count


def _gated(sheet: Sheet) -> pl.Series:
    return sheet.text("use_gated_mlp", ("True", "False")) == "True"


def _timed(sheet: Sheet, timed: str, kernel: str, /, **shape: pl.Series | pl.Expr) -> pl.DataFrame:
    times = {"time_s": sheet.seconds(timed), "spread": sheet.spread(timed)}
    return sheet.rows.select(**shape, **times, kernel=pl.lit(kernel), dtype=pl.lit("bf16"))


def gemm(sheet: Sheet) -> pl.DataFrame:
    """The four linear layers of `mlp.csv`."""
    tokens = sheet.integers("num_tokens")
    width = sheet.integers("n_embd")
    expanded = sheet.integers("n_expanded_embd")
    heads = sheet.integers("n_head") + 2 * sheet.integers("n_kv_head")
    query_width = _share(sheet, width, "n_embd")
    inner = _share(sheet, expanded, "n_expanded_embd")
    for name in ("n_head", "n_kv_head"):
        _share(sheet, sheet.integers(name), name)
    qkv = _share(sheet, heads * _head_dim(sheet, "n_head"), "n_head")
    up = inner * (_gated(sheet).cast(pl.Int64) + 1)
    layers = {
        "attn_pre_proj": (qkv, width),
        "attn_post_proj": (width, query_width),
        "mlp_up_proj": (up, width),
        "mlp_down_proj": (width, inner),
    }
    return pl.concat(
        _timed(sheet, name, "torch linear", n=n, k=k, m=tokens) for name, (n, k) in layers.items()
    )


def elementwise(sheet: Sheet) -> pl.DataFrame:
    """Norms, activation, rotary embedding and residual of `mlp.csv`.

    A model without a norm after attention (Phi) has LayerNorm, and adds three tensors at
    once, which is no `add` of ours.
    """
    tokens = sheet.integers("num_tokens")
    width = sheet.integers("n_embd")
    heads = sheet.integers("n_head") + sheet.integers("n_kv_head")
    rotated = _share(sheet, heads * _head_dim(sheet, "n_head"), "n_head")
    inner = _share(sheet, sheet.integers("n_expanded_embd"), "n_expanded_embd")
    serial = sheet.has("time_stats.post_attention_layernorm.median")
    norm = pl.Series([("rms_norm" if serial else "layer_norm")] * tokens.len())
    gated = _gated(sheet)
    active = gated.replace_strict({True: "silu_mul", False: "gelu"}, return_dtype=pl.String)
    parts = {
        "input_layernorm": (norm, width),
        "mlp_act": (active, inner),
        "attn_rope": (pl.Series(["rope"] * tokens.len()), rotated),
    }
    if serial:
        parts["post_attention_layernorm"] = (norm, width)
        parts["add"] = (pl.Series(["add"] * tokens.len()), width)
    return pl.concat(
        _timed(sheet, name, f"vidur {name}", operation=operation, width=wide, tokens=tokens)
        for name, (operation, wide) in parts.items()
    )


def _attention(sheet: Sheet) -> dict[str, pl.Series | pl.Expr]:
    return {
        "q_heads": _share(sheet, sheet.integers("n_q_head"), "n_q_head"),
        "kv_heads": _share(sheet, sheet.integers("n_kv_head"), "n_kv_head"),
        "head_dim": _head_dim(sheet, "n_q_head"),
        "window_tokens": pl.lit(0, pl.Int32),
        "kv_dtype": pl.lit("bf16"),
        "batch": sheet.integers("batch_size"),
    }


def _phase(sheet: Sheet, prefill: str) -> Sheet:
    return sheet.where(sheet.text("is_prefill", ("True", "False")) == prefill)


def _with_backend(sheet: Sheet, operation: str, **shape: pl.Series | pl.Expr) -> pl.DataFrame:
    frame = _timed(sheet, operation, operation, **_attention(sheet), **shape)
    return frame.with_columns(kernel=sheet.text("attention_backend"))


def attention_context(sheet: Sheet) -> pl.DataFrame:
    """Prefill rows of `attention.csv`, whose cache write is timed apart and left out."""
    sheet = _phase(sheet, "True")
    return _with_backend(
        sheet,
        "attn_prefill",
        tokens=sheet.integers("prefill_chunk_size"),
        prefix_tokens=sheet.integers("kv_cache_size", 0),
    )


def attention_generation(sheet: Sheet) -> pl.DataFrame:
    """Decode rows of `attention.csv`; `kv_cache_size` leaves out the new token."""
    sheet = _phase(sheet, "False")
    cached = sheet.integers("kv_cache_size", 0)
    return _with_backend(sheet, "attn_decode", context_tokens=cached + 1)


def collective(sheet: Sheet) -> pl.DataFrame:
    """All-reduce among devices of one host, all of them in one fast domain.

    Hosts of four have pairs with slow links between them: there only pairs count.
    """
    workers = sheet.integers("num_workers", 2)
    domain = sheet.integers("max_devices_per_node")
    largest = domain.replace({4: 2})
    sheet = sheet.where((sheet.integers("devices_per_node") == workers) & (workers <= largest))
    return _timed(
        sheet,
        "all_reduce",
        "torch.distributed.all_reduce",
        operation=sheet.text("collective", ("all_reduce",)),
        devices=sheet.integers("num_workers", 2),
        message_bytes=sheet.integers("size"),
    )


def point_to_point(sheet: Sheet) -> pl.DataFrame:
    """Send and receive between two devices, of one host or of two."""
    return _timed(
        sheet,
        "send_recv",
        "torch.distributed.send, recv",
        operation=sheet.text("collective", ("send_recv",)),
        devices=sheet.integers("num_workers", 2),
        nodes=sheet.integers("num_workers", 2) // sheet.integers("devices_per_node"),
        message_bytes=sheet.integers("size"),
    )


Translate = Callable[[Sheet], pl.DataFrame]

ATTENTION: dict[str, Translate] = {
    "attention_context": attention_context,
    "attention_generation": attention_generation,
}
"""By family, what `attention.csv` gives."""

NETWORK: dict[str, tuple[str, Translate]] = {
    "collective": ("all_reduce.csv", collective),
    "point_to_point": ("send_recv.csv", point_to_point),
}
"""By family, the file and what it gives."""
