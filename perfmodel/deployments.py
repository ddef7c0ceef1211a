"""Measured deployments: rows of a CSV file, read as configurations the estimator knows.

A row is one deployment under a closed loop of clients; `COLUMNS` says what each column
is. Public benchmark files leave things out, and record others by habits of their own;
every reading of that kind is a function here, and says why.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perfmodel.closed_loop import Load
from perfmodel.documents import read_text
from perfmodel.errors import ConfigError, InputError
from perfmodel.precision import Precision
from perfmodel.public_runs import RANDOM_LENGTHS, Source, has_large_cache, has_small_cache

COLUMNS = {
    "id": "name of the row",
    "model_path": "model: a name that `planner models` lists, or a Hugging Face repository",
    "system": "device",
    "backend": "engine: trtllm, vllm or sglang",
    "mode": "agg (continuous batching) or disagg",
    "isl": "prompt tokens",
    "osl": "output tokens",
    "gemm_quant_mode": "format of the projections",
    "moe_quant_mode": "format of the experts",
    "batch_size": "agg: sequences per attention data-parallel rank",
    "tp_size": "agg: tensor parallelism of attention; likewise pp_size, attention_dp_size, "
    "moe_tp_size, moe_ep_size; prefill_ and decode_ before them for disagg, with _num_workers",
    "backend_version": "engine's build (may be absent)",
    "draft_tokens": "tokens drafted per step of speculative decoding; 0: none (may be absent)",
    "silicon_data_source": "where the row is from; `silicon_concurrency=N` gives the clients",
    "silicon_ttft_ms": "measured mean time to first token (may be absent)",
    "silicon_tpot_ms": "measured mean time between tokens (may be absent)",
}
"""What a file of deployments holds."""

DEVICE_NAMES = {
    "a100": "a100_sxm",
    "h100": "h100_sxm",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200_nvl72",
    "gb300": "gb300_nvl72",
}
"""Benchmarks' names of devices that are not ours."""

FORMATS = {
    "bfloat16": "bf16",
    "float16": "bf16",
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8_static": "fp8",
    "fp8_ootb": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "mxfp4": "mxfp4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4",
    "int8": "int8",
    "int8_wo": "int8_weight_only",
    "int4_wo": "int4",
    "w4afp8": "int4",
}
"""Benchmarks' names of number formats in ours."""


DRIFT = 0.1
"""Lengths vary within this share where a row gives one of each.

Requests all alike would end together and be sent together for ever. Real clients drift apart:
over the calibration rows of other benchmarks 0, 0.1 and 0.2 leave a median TTFT error of 60,
27 and 28 %.
"""


@dataclass(frozen=True)
class Degrees:
    """Parallelism of one pool as the row has it; 0 where it says nothing.

    Attributes:
        workers: replicas; 0 if the row does not say.
    """

    tp: int
    pp: int
    dp: int
    moe_tp: int
    moe_ep: int
    workers: int


@dataclass(frozen=True)
class Deployment:
    """One measured deployment.

    Attributes:
        pools: `agg`, or `prefill` and `decode`.
        measured: TTFT and TPOT in seconds; None where the file has none.
        version: of the engine; empty if not said.
        draft_tokens: tokens drafted per step, if the model can; None where the row does not say.
        source: what the row says of the run it is from.
    """

    id: str
    model: str
    device: str
    engine: str
    gemm: str
    experts: str
    load: Load
    pools: Mapping[str, Degrees]
    measured: tuple[float, float] | None
    version: str = ""
    draft_tokens: int | None = None
    source: Source = field(default_factory=Source)

    @property
    def mode(self) -> str:
        """`agg` or `disagg`."""
        return "agg" if "agg" in self.pools else "disagg"

    def precision(self, checkpoint: str, is_moe: bool) -> Precision:
        """Formats by module.

        A row says `fp8` for any 8-bit format; a checkpoint in blocks stays one. Models
        distributed in mxfp4 keep their projections in bf16, whatever the row says. Engines
        keep the cache in 8 bits beside per-tensor formats, whose checkpoints bring its
        scales, and in bf16 otherwise; the public benchmark has TensorRT-LLM keep it in 8
        bits always, and SGLang on Blackwell.
        """
        gemm, experts = self.gemm, self.experts if is_moe else self.gemm
        if checkpoint == "mxfp4":
            gemm, experts = "bf16", "mxfp4"
        if checkpoint == "fp8_block":
            gemm = "fp8_block" if gemm == "fp8" else gemm
            experts = "fp8_block" if experts == "fp8" else experts
        cache = "fp8" if gemm in ("fp8", "nvfp4") else "bf16"
        if self.source.is_public:
            if has_small_cache(self.engine, self.device):
                cache = "fp8"
            elif has_large_cache(self.engine, self.device):
                cache = "bf16"
        return Precision(gemm, gemm, experts, cache)


def read_deployments(path: Path) -> list[Deployment | InputError]:
    """Every row of a file; in place of one that makes no sense, why.

    Raises:
        ConfigError: the file is missing, not CSV, or lacks a column.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, "CSV")))
    try:
        names = reader.fieldnames or []
        for name in ("id", "model_path", "system", "backend", "mode", "isl", "osl"):
            if name not in names:
                raise ConfigError(
                    f"missing; deployments have {', '.join(COLUMNS)}",
                    source=str(path),
                    field=name,
                )
        return list(_rows(reader, path))
    except csv.Error as error:
        raise ConfigError(f"not a readable CSV file ({error})", source=str(path)) from None


def _rows(reader: csv.DictReader[str], path: Path) -> Iterator[Deployment | InputError]:
    for row in reader:
        where = f"{path}:{reader.line_num}"
        try:
            yield _deployment(row)
        except InputError as error:
            yield ConfigError(str(error), source=where, field=row.get("id") or "")


def _deployment(row: Mapping[str, str]) -> Deployment:
    mode = row["mode"]
    if mode not in ("agg", "disagg"):
        raise InputError(f"mode: expected agg or disagg, got {mode!r}")
    prefixes = {"agg": ""} if mode == "agg" else {"prefill": "prefill_", "decode": "decode_"}
    pools = {name: _degrees(row, prefix) for name, prefix in prefixes.items()}
    source = Source.of(row.get("silicon_data_source") or "")
    drafts = (row.get("draft_tokens") or "").strip()
    return Deployment(
        id=row["id"],
        model=row["model_path"],
        device=DEVICE_NAMES.get(row["system"], row["system"]),
        engine=row["backend"],
        gemm=_format(row, "gemm_quant_mode"),
        experts=_format(row, "moe_quant_mode"),
        load=_load(row, pools, source),
        pools=pools,
        measured=_measured(row),
        version=row.get("backend_version") or "",
        draft_tokens=_whole(row, "draft_tokens") if drafts else None,
        source=source,
    )


def _whole(row: Mapping[str, str], name: str, default: int = 0) -> int:
    text = (row.get(name) or "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if value < 0 or value != int(value):
        raise InputError(f"{name}: expected a whole number, got {text!r}")
    return int(value)


def _degrees(row: Mapping[str, str], prefix: str) -> Degrees:
    return Degrees(
        tp=max(_whole(row, f"{prefix}tp_size", 1), 1),
        pp=max(_whole(row, f"{prefix}pp_size", 1), 1),
        dp=max(_whole(row, f"{prefix}attention_dp_size", 1), 1),
        moe_tp=_whole(row, f"{prefix}moe_tp_size"),
        moe_ep=_whole(row, f"{prefix}moe_ep_size"),
        workers=_whole(row, f"{prefix}num_workers"),
    )


def _format(row: Mapping[str, str], name: str) -> str:
    text = (row.get(name) or "").strip() or "bfloat16"
    if text not in FORMATS:
        raise InputError(f"{name}: unknown format {text!r}; expected one of {', '.join(FORMATS)}")
    return FORMATS[text]


def _load(row: Mapping[str, str], pools: Mapping[str, Degrees], source: Source) -> Load:
    """The clients' load.

    The concurrency that the source names is taken before the batch sizes, which in
    disaggregated rows are mostly 1 whatever the load.
    """
    if source.clients:
        clients = source.clients
    elif "agg" in pools:
        clients = _whole(row, "batch_size", 1) * pools["agg"].dp
    else:
        decode = pools["decode"]
        clients = _whole(row, "decode_batch_size", 1) * decode.dp * max(decode.workers, 1)
    isl, osl = _whole(row, "isl"), _whole(row, "osl")
    if isl < 1 or osl < 1:
        raise InputError("isl, osl: expected at least one token each")
    if source.is_public:
        mean = (1 + RANDOM_LENGTHS) / 2
        return Load(max(clients, 1), isl * mean, osl * mean, (1 - RANDOM_LENGTHS) / 2 / mean)
    return Load(max(clients, 1), isl, osl, DRIFT)


def _measured(row: Mapping[str, str]) -> tuple[float, float] | None:
    values = []
    for name in ("silicon_ttft_ms", "silicon_tpot_ms"):
        text = (row.get(name) or "").strip()
        if not text:
            return None
        try:
            value = float(text) / 1e3
        except ValueError:
            raise InputError(f"{name}: expected a number, got {text!r}") from None
        if not 0 < value < math.inf:
            raise InputError(f"{name}: expected a number above 0, got {text!r}")
        values.append(value)
    return values[0], values[1]
