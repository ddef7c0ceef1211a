"""Measuring the machine at hand: microbenchmarks of the operator families, with PyTorch.

| name | what |
|---|---|
| `collect` | measures, refines adaptively, writes tables and the device's file |
| `Report`, `FamilyReport` | what came out, with the interpolation error reached |
| `FAMILIES` | the families that can be collected |

Importing this package does not import PyTorch: that waits until something is timed.
"""

from perfmodel.collect.collection import Progress, collect
from perfmodel.collect.grids import FAMILIES
from perfmodel.collect.results import FamilyReport, Report

__all__ = ["FAMILIES", "FamilyReport", "Progress", "Report", "collect"]
