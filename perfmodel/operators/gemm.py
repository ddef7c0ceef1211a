"""Dense matrix products: `[m, k] x [k, n]`, weights of shape `[k, n]` streamed once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from perfmodel.operators.base import OperatorModel, Roofline
from perfmodel.precision import ACTIVATION_BYTES, FORMATS

if TYPE_CHECKING:
    import polars as pl

# A format's efficiency stands in for another's in this order.
_STAND_INS = ("bf16", "fp8", "fp8_block", "nvfp4")

LAUNCHED = 20.0
"""Times other engines' small products from which a table is taken to hold launches.

On Hopper vLLM's are 12 times slower: not told apart from slow kernels, and left."""

SMALL = 2048
"""Outputs and inputs of a product that a kernel's start dominates."""


class Gemm(OperatorModel):
    """A projection; shape columns `m` (tokens), `n` (outputs), `k` (inputs)."""

    family: ClassVar[str] = "gemm"
    axes: ClassVar[tuple[str, ...]] = ("m", "n", "k")
    # Each format has kernels of its own; another's did not predict held-out rows better.
    relatives: ClassVar[int] = 0

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """2mnk operations; weights, inputs and outputs each moved once."""
        return gemm_roofline(self.device, categories["dtype"], shape["m"], shape["n"], shape["k"])

    def _select(self, frame: pl.DataFrame, categories: Mapping[str, str]) -> pl.DataFrame:
        """Checkpoints have static scales, and engines fuse the cast with the kernel before it.

        The tables' linear layers find scales and cast on the fly. What that costs shows in the
        thinnest product of the same input, where it is nearly all there is: of its excess over
        the bf16 one, the share that the engine fuses is taken off.
        """
        rows = super()._select(frame, categories)
        if not len(rows):
            return rows
        fused = FUSED_QUANTIZATION.get((rows["engine"][0], categories["dtype"]), 0.0)
        if not fused:
            return rows
        bf16 = super()._select(frame, {"dtype": "bf16"})
        return _without_quantization(rows, bf16, categories["dtype"], fused)

    def engines_for(self, categories: Mapping[str, str]) -> tuple[str, ...]:
        """The engine's own table last, if it timed the launch of its kernels and not them.

        vLLM's block-scaled products on Blackwell and L40S take 180 to 400 us whatever their
        size, where other engines' smallest take 6: launched from Python one by one, as no
        captured step launches them.
        """
        engines = self.table_engines
        others = [e for e in engines[1:] if np.isfinite(self._least_s(e, categories))]
        if not others or categories["dtype"] == "bf16":
            return engines
        least = min(self._least_s(engine, categories) for engine in others)
        own = self._least_s(engines[0], categories)
        launched = np.isfinite(own) and own > LAUNCHED * least
        return (*others, engines[0]) if launched else engines

    def _least_s(self, engine: str, categories: Mapping[str, str]) -> float:
        """What the table's small products take; infinite without any."""
        import polars as pl

        frame = self.store.table(self.device.tables, engine, self.family)
        if frame is None:
            return np.inf
        small = (pl.col("m") <= 16) & (pl.col("n") <= SMALL) & (pl.col("k") <= SMALL)
        times = frame.filter(small & (pl.col("dtype") == categories["dtype"]))["time_s"]
        median = times.median()
        return np.inf if median is None else float(median)  # type: ignore[arg-type]

    def stand_ins(self, categories: Mapping[str, str]) -> list[Mapping[str, str]]:
        """The same device's other formats: their share of the roofline carries over."""
        return [{"dtype": name} for name in _STAND_INS if name != categories["dtype"]]


FUSED_QUANTIZATION = {
    ("trtllm", "fp8"): 1.0,
    ("trtllm", "nvfp4"): 0.5,
    ("sglang", "fp8"): 1.0,
}
"""Share of the quantization in a table's linear layers that an engine does not pay in service.

TensorRT-LLM's norms, activations and attention write 8-bit outputs; half of the 4-bit excess
is a slower small product, not the cast. vLLM casts in a kernel of its own. Held against the
measured Llama-3.1-70B deployments: median TPOT errors of 2-4 % with these shares, and of
10 % (vLLM, fp8) and 25 % (TensorRT-LLM, nvfp4) with the opposite ones.
"""

LEAST_PRODUCT = 0.2
"""Of a dynamic layer's time, the product itself takes at least this share."""

LEAST_OF_BF16 = {"fp8": 0.5, "nvfp4": 0.25}
"""And this share of the same product's time in bf16: so much less is moved and multiplied."""


def _without_quantization(
    rows: pl.DataFrame, bf16: pl.DataFrame, dtype: str, fused: float
) -> pl.DataFrame:
    """Rows of a dynamic format less a share of their thinnest product's excess over bf16's.

    None gets shorter than physics lets it be against bf16, nor than the shortest bf16 call;
    rows that were timed below that stay as they are.
    """
    import polars as pl

    thinnest = rows["n"].min()
    thin = rows.filter(pl.col("n") == thinnest).select("m", "k", thin="time_s")
    reference = bf16.filter(pl.col("n") == thinnest).select("m", "k", reference="time_s")
    excess = thin.join(reference, on=["m", "k"]).select(
        "m", "k", excess=(pl.col("thin") - pl.col("reference")).clip(0.0)
    )
    less = pl.col("time_s") - pl.col("excess").fill_null(0.0)
    # Noise in two thin products must not leave a fat one for nothing.
    less = pl.max_horizontal(less, LEAST_PRODUCT * pl.col("time_s"))
    less = fused * less + (1.0 - fused) * pl.col("time_s")
    same = bf16.select("m", "n", "k", bf16="time_s").unique(["m", "n", "k"], keep="first")
    least = pl.max_horizontal(LEAST_OF_BF16[dtype] * pl.col("bf16"), pl.lit(bf16["time_s"].min()))
    less = pl.max_horizontal(less, pl.min_horizontal(least, pl.col("time_s")))
    return (
        rows.join(excess, on=["m", "k"], how="left")
        .join(same, on=["m", "n", "k"], how="left")
        .with_columns(time_s=less.cast(rows.schema["time_s"]))
        .drop("excess", "bf16")
    )


def gemm_roofline(device: Any, dtype: str, m: Any, n: Any, k: Any) -> Roofline:
    """Roofline of one product on `device` with weights stored as `dtype`."""
    weights = FORMATS[dtype]
    # A format that the device cannot multiply natively is expanded to bf16 on the way in.
    rate = device.peak_flops_per_s.get(weights.peak, device.peak_flops_per_s["bf16"])
    moved = n * k * weights.bytes + (m * k + m * n) * ACTIVATION_BYTES
    return Roofline(2.0 * m * n * k / rate, moved / device.memory_bandwidth_bytes_per_s)
