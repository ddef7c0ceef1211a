"""Number formats: what an element costs in memory and which peak rate multiplies it.

A format's name is the one used in queries, in reports and in the measured tables.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from perfmodel.errors import InputError


@dataclass(frozen=True)
class NumberFormat:
    """One storage format of a weight, an activation or a KV-cache element.

    Attributes:
        bits: storage per element, block scales included.
        peak: the device peak (key of `Device.peak_flops_per_s`) at which a product with this
            weight format runs; weight-only formats are expanded and multiply in bf16.
    """

    name: str
    bits: float
    peak: str

    @property
    def bytes(self) -> float:
        """Storage of one element, in bytes."""
        return self.bits / 8


# Block scales: fp8_block one fp32 per 128x128; nvfp4 one fp8 per 16; mxfp4 one e8m0 per 32;
# int4 one fp16 scale per group of 128 (the usual AWQ/GPTQ group).
FORMATS = {
    f.name: f
    for f in (
        NumberFormat("bf16", 16, "bf16"),
        NumberFormat("fp8", 8, "fp8"),
        NumberFormat("fp8_block", 8 + 32 / (128 * 128), "fp8"),
        NumberFormat("fp8_weight_only", 8, "bf16"),
        NumberFormat("int8", 8, "int8"),
        NumberFormat("int8_weight_only", 8, "bf16"),
        NumberFormat("nvfp4", 4.5, "fp4"),
        NumberFormat("nvfp4_weight_only", 4.5, "bf16"),
        NumberFormat("mxfp4", 4.25, "bf16"),
        NumberFormat("mxfp4_mxfp8", 4.25, "fp8"),  # activations in mxfp8: devices with fp4 only
        NumberFormat("mxfp4_weight_only", 4.25, "bf16"),
        NumberFormat("int4", 4.125, "bf16"),
    )
}


@dataclass(frozen=True)
class Precision:
    """The number formats of one deployment, by module.

    Attributes:
        attention: attention's projections.
        ffn: dense FFN and shared experts.
        experts: routed experts.
        kv: the KV cache.
        lm_head: the LM head, which engines leave in bf16 unless told otherwise.

    Activations follow each module's weights. Embeddings, norms and routers stay in bf16, as
    engines leave them.

    Raises:
        InputError: an unknown format.
    """

    attention: str = "bf16"
    ffn: str = "bf16"
    experts: str = "bf16"
    kv: str = "bf16"
    lm_head: str = "bf16"

    def __post_init__(self) -> None:
        for module, name in self.by_module().items():
            if name not in FORMATS:
                raise InputError(
                    f"precision of {module}: unknown format {name!r}; expected one of "
                    + ", ".join(FORMATS)
                )

    def by_module(self) -> dict[str, str]:
        """Format name of each module."""
        return {
            "attention": self.attention,
            "ffn": self.ffn,
            "experts": self.experts,
            "kv": self.kv,
            "lm_head": self.lm_head,
        }

    def bytes(self, module: str) -> float:
        """Storage of one element of a module, in bytes."""
        return FORMATS[self.by_module()[module]].bytes

    def on(self, peaks: Container[str]) -> Precision:
        """The same storage on a device with these peaks.

        A format that the device cannot multiply is kept in memory and expanded to bf16 on
        the way in, as engines' weight-only kernels do. mxfp4 weights meet mxfp8 activations
        on devices whose tensor cores take 4-bit operands, bf16 ones elsewhere.
        """
        mxfp4 = "mxfp4_mxfp8" if "fp4" in peaks else "mxfp4"
        adapted = {
            module: mxfp4
            if name in ("mxfp4", "mxfp4_mxfp8")
            else name
            if FORMATS[name].peak in peaks or module == "kv"
            else WEIGHT_ONLY.get(name, name)
            for module, name in self.by_module().items()
        }
        return Precision(**adapted)

    def with_bf16_activations(self) -> Precision:
        """The same storage, multiplied in bf16."""
        expanded = {
            m: n if m == "kv" else WEIGHT_ONLY.get(n, n) for m, n in self.by_module().items()
        }
        return Precision(**expanded)

    def __str__(self) -> str:
        head = "" if self.lm_head == "bf16" else f" lm_head:{self.lm_head}"
        if self.attention == self.ffn == self.experts:
            return f"weights:{self.attention} kv:{self.kv}{head}"
        named = {m: n for m, n in self.by_module().items() if m != "lm_head"}
        return " ".join(f"{module}:{name}" for module, name in named.items()) + head


WEIGHT_ONLY = {
    "fp8": "fp8_weight_only",
    "fp8_block": "fp8_weight_only",
    "int8": "int8_weight_only",
    "nvfp4": "nvfp4_weight_only",
    "mxfp4": "mxfp4_weight_only",
    "mxfp4_mxfp8": "mxfp4_weight_only",
}
"""The weight-only form of each format that otherwise multiplies natively."""

ACTIVATION_BYTES = 2.0
"""Residual-stream activations and collective payloads are bf16 in every engine modelled."""
