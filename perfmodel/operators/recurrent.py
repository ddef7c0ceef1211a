"""Recurrent layers between their projections: short convolutions and scans, per device.

A scan reads and rewrites each sequence's state. In prefill it works in chunks whose products
run on tensor cores; in decode it takes one token, and moving the state is nearly all it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from perfmodel.operators.base import OperatorModel, Roofline
from perfmodel.precision import ACTIVATION_BYTES

if TYPE_CHECKING:
    import polars as pl

STATE_BYTES = 4.0
"""A state's element in the measured tables: what their decode scans move, 0.8 of bandwidth."""


@dataclass
class _Convolution(OperatorModel):
    """A causal convolution of a few taps over each channel by itself.

    Shape columns: `channels`, `conv_width`, `batch`, `tokens` (new ones of each sequence).
    Categories: `phase`, `context` or `generation`; `operation`, `conv`; `dtype`.
    """

    axes: ClassVar[tuple[str, ...]] = ("batch", "tokens", "channels")
    # Other categories are other kernels, not the same one in another format.
    relatives: ClassVar[int] = 0
    beside: ClassVar[tuple[str, ...]] = ("conv_width",)
    efficiency: ClassVar[Roofline] = Roofline(0.5, 0.5, 1.0)

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Each channel is read and written once; decode also moves the kept inputs."""
        rows = shape["batch"] * shape["tokens"]
        if categories["phase"] == "generation":
            rows = rows + shape["batch"] * (shape["conv_width"] - 1.0)
        moved = 2.0 * rows * shape["channels"] * ACTIVATION_BYTES
        return Roofline(bandwidth_s=moved / self.device.memory_bandwidth_bytes_per_s)

    def _select(self, frame: pl.DataFrame, categories: Mapping[str, str]) -> pl.DataFrame:
        # Only the sum of channels counts, whichever heads they belong to.
        return self._with_channels(super()._select(frame, categories))

    def _with_channels(self, rows: pl.DataFrame) -> pl.DataFrame:
        raise NotImplementedError


class DeltaNetConvolution(_Convolution):
    """Over queries, keys and values of a gated delta net."""

    family: ClassVar[str] = "gated_delta_net"

    def _with_channels(self, rows: pl.DataFrame) -> pl.DataFrame:
        channels = 2 * rows["k_heads"] * rows["k_dim"] + rows["v_heads"] * rows["v_dim"]
        return rows.with_columns(channels.alias("channels"))


class MambaConvolution(_Convolution):
    """Over inputs, B and C of a Mamba-2 layer."""

    family: ClassVar[str] = "mamba2"

    def _with_channels(self, rows: pl.DataFrame) -> pl.DataFrame:
        channels = rows["heads"] * rows["head_dim"] + 2 * rows["groups"] * rows["state"]
        return rows.with_columns(channels.alias("channels"))


@dataclass
class _Scan(OperatorModel):
    """A recurrence over a sequence's tokens.

    Categories: `phase`; `operation`, `scan`; `dtype`, that of queries, keys and values.
    Besides a family's columns of heads, shapes have `batch`, `tokens` (new ones of each
    sequence) and, where it differs from the tables', `state_element_bytes`.
    """

    axes: ClassVar[tuple[str, ...]] = ("batch", "tokens")
    relatives: ClassVar[int] = 0

    def _floor(
        self,
        categories: Mapping[str, str],
        shape: Mapping[str, Any],
        state: Any,
        products: float,
        token_elements: Any,
    ) -> Roofline:
        """`products` multiply-adds per token and number of the state; the state moved once.

        A prompt's scan starts from nothing and writes its state; decode reads it too.
        """
        passes = 2.0 if categories["phase"] == "generation" else 1.0
        state_bytes = state * shape.get("state_element_bytes", STATE_BYTES)
        tokens = shape["batch"] * shape["tokens"]
        moved = passes * shape["batch"] * state_bytes + tokens * token_elements * ACTIVATION_BYTES
        return Roofline(
            2.0 * products * tokens * state / self.device.peak_flops_per_s["bf16"],
            moved / self.device.memory_bandwidth_bytes_per_s,
        )


class DeltaNetScan(_Scan):
    """The gated delta rule; columns `k_heads`, `k_dim`, `v_heads`, `v_dim`."""

    family: ClassVar[str] = "gated_delta_net"
    slices: ClassVar[Mapping[str, float]] = {
        "k_dim": 4.0,
        "v_dim": 4.0,
        "v_heads": 1.0,
        "k_heads": 0.5,
    }
    # A block of work is a value head of a sequence.
    similar: ClassVar[Mapping[str, Mapping[str, float]]] = {"v_heads": {"batch": 1.0}}
    efficiency: ClassVar[Roofline] = Roofline(0.05, 0.75, 1.0)

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Three products with the state per token: what it recalls, the correction, the output."""
        state = shape["v_heads"] * shape["k_dim"] * shape["v_dim"]
        vectors = 2.0 * (shape["k_heads"] * shape["k_dim"] + shape["v_heads"] * shape["v_dim"])
        return self._floor(categories, shape, state, 3.0, vectors)


class MambaScan(_Scan):
    """Mamba-2's state-space recurrence; columns `heads`, `head_dim`, `state`, `groups`.

    No table has it. Chunked scans of gated delta nets reach 0.04 to 0.13 of the same floor
    on Hopper, 0.03 to 0.07 on Blackwell, decode scans 0.8 of the bandwidth.
    """

    family: ClassVar[str] = "mamba2"
    slices: ClassVar[Mapping[str, float]] = {
        "head_dim": 4.0,
        "state": 4.0,
        "heads": 1.0,
        "groups": 0.5,
    }
    similar: ClassVar[Mapping[str, Mapping[str, float]]] = {"heads": {"batch": 1.0}}
    efficiency: ClassVar[Roofline] = Roofline(0.06, 0.75, 1.0)
    launch_s: ClassVar[float] = 5e-6

    def roofline(self, categories: Mapping[str, str], shape: Mapping[str, Any]) -> Roofline:
        """Two products with the state per token: the update and the output."""
        state = shape["heads"] * shape["head_dim"] * shape["state"]
        vectors = 2.0 * (shape["groups"] * shape["state"] + shape["heads"] * shape["head_dim"])
        return self._floor(categories, shape, state, 2.0, vectors)
