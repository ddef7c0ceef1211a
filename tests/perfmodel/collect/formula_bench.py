"""A machine whose operators take times of a formula: nothing here needs PyTorch."""

from __future__ import annotations

from perfmodel.collect.measure import Key, Machine, Sample

PEAK, BANDWIDTH = 2e12, 2e10


class FormulaBench:
    """Answers with the roofline of a product, a launch cost and a kink; counts its rows.

    Args:
        fail_after: raises KeyboardInterrupt instead of measuring a further row.
    """

    version = "0.0-formula"
    variant = "exact"

    def __init__(self, fail_after: int = 10**9) -> None:
        self.rows: list[tuple[str, Key]] = []
        self.fail_after = fail_after

    def machine(self) -> Machine:
        return Machine("formula", 2.0**34, BANDWIDTH, {"bf16": PEAK})

    def measure(self, family: str, key: Key) -> Sample | None:
        if len(self.rows) >= self.fail_after:
            raise KeyboardInterrupt
        self.rows.append((family, key))
        return Sample(formula_s(family, key), 0.0, 3, "formula")


def formula_s(family: str, key: Key) -> float:
    value = {name: float(v) for name, v in key.items() if not isinstance(v, str)}
    if family == "gemm":
        m, n, k = value["m"], value["n"], value["k"]
        compute, moved = 2 * m * n * k / PEAK, 2 * (n * k + m * n + m * k) / BANDWIDTH
        return 5e-6 + 1.4 * max(compute, moved)
    product = 1.0
    for number in value.values():
        product *= max(number, 1.0)
    return 5e-6 + product / 1e10
