"""Memory that operands are cut from, what a built operation is, and the parts several share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Operation = Callable[[int], Any]
"""Runs call number i."""

MOST_VIEWS = 64
"""Operands kept ready per shape; at this many, even small ones add up to more than a cache."""


@dataclass(frozen=True)
class Built:
    """A row's operation, ready to be timed.

    Attributes:
        run: runs call number i.
        kernel: the implementation's name.
        cycle: calls that differ in what they have to do: a timing is the mean over all of them.
    """

    run: Operation
    kernel: str
    cycle: int = 1


def rms_norm(torch: Any, x: Any, weight: Any) -> Any:
    """RMS norm over the last dimension of [tokens, width]."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, 1e-5)


def silu_mul(torch: Any, x: Any) -> Any:
    """SwiGLU's activation: [tokens, 2 width] (gate, up) to [tokens, width]."""
    gate, up = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def rotate(torch: Any, x: Any, cos: Any, sin: Any) -> Any:
    """Rotary embedding of [..., tokens, heads, head_dim]; cos and sin [tokens, 1, head_dim / 2]."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


class Pool:
    """Memory that operands are cut from, allocated once.

    Args:
        torch: the module.
        device: where.
        elements: of bf16.
    """

    def __init__(self, torch: Any, device: str, elements: int) -> None:
        self.torch = torch
        self.data = torch.empty(elements, dtype=torch.bfloat16, device=device)
        block = torch.randn(min(elements, 1 << 20), device=device).to(torch.bfloat16) * 0.05
        for start in range(0, elements, len(block)):
            part = self.data[start : start + len(block)]
            part.copy_(block[: len(part)])

    def views(self, shape: tuple[int, ...], dtype: Any = None, most: int = MOST_VIEWS) -> list[Any]:
        """Disjoint tensors of a shape, spread over the whole pool.

        Raises:
            MemoryError: the pool does not hold one.
        """
        data = self.data if dtype is None else self.data.view(dtype)
        size = 1
        for extent in shape:
            size *= extent
        # 4096 elements: every view begins on a page, as an allocation would.
        stride = -(-size // 4096) * 4096
        count = len(data) // stride
        if not count:
            raise MemoryError(f"an operand of {size} elements exceeds the pool")
        step = max(1, count // most)
        starts = [i * step * stride for i in range(min(count, most))]
        return [data[start : start + size].view(shape) for start in starts]
