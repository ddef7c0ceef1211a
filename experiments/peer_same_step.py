"""Our estimate of the plans and steps that the peer chose: the same work, by both.

Used by `compare_aiconfigurator.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from perfmodel import phases
from perfmodel.breakdown import breakdown
from perfmodel.layout import Layouts, format_layout, parse_layout
from perfmodel.queueing import mean_wait_s
from perfmodel.step import StepModel
from perfmodel.work import StepWork
from planner.problem import resolve
from planner.query import Query
from planner.sweep import Space

CLASSES = (
    ("communication", ("_ar", "p2p", "dispatch", "combine", "all_", "scatter", "send")),
    ("attention", ("attention", "bmm", "absorb")),
    ("dense products", ("gemm", "proj", "router", "lm_head")),
    ("experts", ("moe", "experts")),
)


def operator_class(name: str, module: str) -> str:
    """Which kind of operator: the two tools name them differently."""
    if module == "communication":
        return module
    for kind, marks in CLASSES:
        if any(mark in name for mark in marks) and "norm" not in name and "reduce_add" not in name:
            return kind
    return "elementwise"


class SameStep:
    """Our estimate of the peer's plans, step by step."""

    def __init__(self, query: Query, isl: int, devices: int) -> None:
        self.isl, self.devices = isl, devices
        problem = resolve(query)
        space = Space(problem)
        offer, precision = next(space.pairs())
        self.traffic = problem.traffic
        self.moe = problem.model.is_moe
        self.model: StepModel = space.step_model(offer, precision)

    def layout(self, degrees: list[int]) -> Layouts:
        """The peer's degrees as our layout."""
        tp, pp, dp, expert_tp, expert_ep = degrees
        ffn = f"TP{expert_tp}EP{expert_ep}" if self.moe else f"TP{tp}"
        return parse_layout(f"attn:TP{tp}DP{dp} ffn:{ffn} PP{pp}")

    def compare(
        self, degrees: list[int], batch: int, answer: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Each step of a worker: milliseconds of both, by class of operator."""
        layout = self.layout(degrees)
        rows: list[dict[str, Any]] = []
        context = self.traffic.context_mean
        for name, theirs in answer.get("steps", {}).items():
            if name == "counts" or not theirs:
                continue
            if name == "prefill":
                work = StepWork.of(prefill_sequences=batch, prefill_tokens=self.isl)
            elif name == "mixed":
                counts = answer["steps"]["counts"]
                decoding, chunk = counts["mix_decode_requests"], counts["mix_context_tokens"]
                work = phases.mixed_work(self.traffic, decoding, chunk)
            else:
                work = StepWork.of(decode_sequences=batch, context_tokens=context)
            total = float(self.model.time(layout, work).latency_s[0, 0]) * 1e3
            ours: dict[str, float] = {}
            stage = breakdown(self.model, layout, work)
            for op in stage.operators:
                key = operator_class(op.name, op.module)
                ours[key] = ours.get(key, 0.0) + op.total_s * 1e3
            ours["engine"] = stage.overhead_s * 1e3
            peer: dict[str, float] = {}
            for operator, value in theirs.items():
                key = operator_class(operator, "")
                peer[key] = peer.get(key, 0.0) + value
            rows.append(
                {
                    "step": name,
                    "layout": format_layout(layout),
                    "batch": batch,
                    "peer_ms": sum(theirs.values()),
                    "ours_ms": total,
                    "difference": total / sum(theirs.values()) - 1.0,
                    "operators": {
                        key: {"peer_ms": peer.get(key, 0.0), "ours_ms": ours.get(key, 0.0)}
                        for key in sorted({*peer, *ours})
                    },
                }
            )
        return rows

    def disaggregated(self, answer: dict[str, Any]) -> dict[str, float]:
        """Our figures of its whole disaggregated plan, Poisson queueing at its rate included."""
        row, workers = answer["row"], answer["workers"]
        units = self.devices // row["num_total_gpus"]
        p, d = (workers[role] for role in ("prefill", "decode"))
        one = phases.prefill(
            self.model, self.layout(p["degrees"]), self.traffic, np.array([p["batch"]])
        )
        out = phases.decode(
            self.model, self.layout(d["degrees"]), self.traffic, np.array([d["batch"]])
        )
        prefill_qps = float(one.qps[0, 0]) * row["(p)workers"] * units
        decode_qps = float(out.qps[0, 0]) * row["(d)workers"] * units
        servers = one.servers[0, 0] * row["(p)workers"] * units
        load = np.array(row["request_rate"] * units / prefill_qps)
        wait = float(mean_wait_s(servers, load, one.pace_s[0, 0]))
        service = float(one.latency_s[0, 0, 0])
        memory = max(float(x.memory.total[0, 0]) for x in (one, out))
        return {
            "qps": min(prefill_qps, decode_qps),
            "ttft_ms": service * 1e3,
            "ttft_poisson_ms": (service + wait) * 1e3,
            "tpot_ms": float(out.ttit_s[0, 0]) * 1e3,
            "memory_share": memory / self.model.device.memory_bytes,
        }

    def continuous(self, answer: dict[str, Any]) -> dict[str, float]:
        """Our figures of its whole continuous plan."""
        row, worker = answer["row"], answer["workers"]["agg"]
        one = phases.continuous(
            self.model,
            self.layout(worker["degrees"]),
            self.traffic,
            np.array([worker["batch"]]),
            np.array([row["ctx_tokens"]]),
        )
        replicas = self.devices // row["num_total_gpus"]
        busy = np.minimum(one.mixed_share[0, 0], 1.0)
        servers = one.servers[0, 0] * replicas
        wait = float(mean_wait_s(servers, busy, one.mixed_s[0, 0]))
        return {
            "qps": float(one.qps[0, 0]) * replicas,
            "ttft_ms": float(one.prefill_s[0, 0, 0]) * 1e3,
            "ttft_poisson_ms": float(one.prefill_s[0, 0, 0]) * 1e3 + wait * 1e3,
            "tpot_ms": float(one.ttit_s[0, 0]) * 1e3,
            "memory_share": float(one.memory.total[0, 0]) / self.model.device.memory_bytes,
        }
