"""Routed experts, as PyTorch runs them: grouped products where there are any, else one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perfmodel.collect.measure import Key
from perfmodel.collect.routing import DRAWS, bounds, choices
from perfmodel.collect.torch_pool import Built, Pool, silu_mul

CHOSEN = 4.0
"""Added to the scores of the experts that a token is to visit; the others' are below 1."""


def routed_experts(
    torch: Any,
    x: Any,
    scores: Any,
    up: Any,
    down: Any,
    top_k: int,
    rows: Sequence[tuple[int, int]] | None = None,
    pairs: int | None = None,
) -> Any:
    """The routed experts of a layer, for the first of them on this device.

    Args:
        x: [tokens, hidden].
        scores: [tokens, experts], of all experts, before the softmax.
        up: [experts here, width, hidden]; of gated experts gate and up, twice the inner width.
        down: [experts here, hidden, inner width].
        rows: begin and end of each expert's share of the sorted rows, where known beforehand;
            None runs all experts as one grouped product.
        pairs: of tokens and experts here, in all; None: every expert is here.
    """
    weights, chosen = scores.softmax(-1).topk(top_k)
    expert, order = chosen.flatten().sort()
    order = order[:pairs]
    token = order // top_k
    inputs = x[token]
    gated = up.shape[1] != down.shape[2]

    def act(wide: Any) -> Any:
        return silu_mul(torch, wide) if gated else torch.relu(wide).square()

    if rows is None:
        ids = torch.arange(len(down), device=x.device)
        ends = torch.searchsorted(expert, ids, right=True).to(torch.int32)
        wide = torch._grouped_mm(inputs, up.transpose(1, 2), offs=ends)
        outputs = torch._grouped_mm(act(wide), down.transpose(1, 2), offs=ends)
    else:
        linear = torch.nn.functional.linear
        outputs = torch.cat(
            [
                linear(act(linear(inputs[begin:end], up[e])), down[e])
                for e, (begin, end) in enumerate(rows)
                if end > begin
            ]
        )
    outputs = outputs * weights.flatten()[order, None].to(x.dtype)
    return torch.zeros_like(x).index_add_(0, token, outputs)


def build_experts(pool: Pool, key: Key, on_cuda: bool) -> Built:
    """Routed experts of a row of `moe`, in turn over the draws of its routing."""
    torch = pool.torch
    tokens, hidden, top_k, experts, tp, ep = (
        int(key[name]) for name in ("tokens", "hidden", "top_k", "experts", "tp", "ep")
    )
    inner, here = int(key["intermediate"]) // tp, experts // ep
    widths = (2 if key["activation"] == "gated" else 1) * inner
    # Gate, up and down of an expert side by side: no two lie at one place of the pool.
    stacks = [
        (
            block[: here * widths * hidden].view(here, widths, hidden),
            block[here * widths * hidden :].view(here, hidden, inner),
        )
        for block in pool.views((here * (widths + inner) * hidden,))
    ]
    x = pool.views((tokens, hidden), most=1)[0]
    grouped = on_cuda and can_group(torch)
    routings = []
    for draw in range(DRAWS):
        chosen = choices(str(key["routing"]), tokens, top_k, experts, ep, draw)
        rows = bounds(chosen, here)
        visited = torch.tensor(chosen, dtype=torch.int64, device=x.device)
        scores = torch.rand(tokens, experts, device=x.device)
        scores.scatter_(1, visited, CHOSEN + scores.gather(1, visited))
        routings.append((scores, None if grouped else rows, rows[-1][1]))

    def run(i: int) -> Any:
        up, down = stacks[i % len(stacks)]
        scores, rows, pairs = routings[i % DRAWS]
        return routed_experts(torch, x, scores, up, down, top_k, rows, pairs)

    kernel = "torch._grouped_mm" if grouped else "torch linear, expert by expert"
    return Built(run, f"{kernel}; topk, sort, index_add_", cycle=DRAWS)


def can_group(torch: Any) -> bool:
    """Whether grouped products run as one kernel: elsewhere they wait for the host."""
    return hasattr(torch, "_grouped_mm") and bool(torch.cuda.get_device_capability() >= (9, 0))
