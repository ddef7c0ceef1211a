"""What-ifs: answers to a query's neighbours, and what an answer depends on.

| name | what |
|---|---|
| `cells`, `answer_grid` | a grid of changed queries, each with its cheapest fleet |
| `price_curve` | the cheapest fleet at any price of one device: where it enters, and is alone |
| `pairing` | prices at which a fleet of two device types beats those of one |
| `shadow_prices` | what a looser latency target, or a further host, would save |
| `tornado` | what small changes do to the answer, the estimator's own error among them |
"""

from __future__ import annotations

from typing import Any

__all__ = ["answer_grid", "cells", "pairing", "price_curve", "shadow_prices", "tornado"]

_HOMES = {
    "answer_grid": "grid",
    "cells": "axes",
    "pairing": "pairing",
    "price_curve": "price",
    "shadow_prices": "shadow",
    "tornado": "sensitivity",
}


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that `planner --help` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"planner.whatif.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
