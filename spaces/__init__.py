"""The space of deployments: decision variables, constraints, enumeration.

| name | what |
|---|---|
| `LayoutConstraint`, `structure_constraints` | what a layout must satisfy |
| `enumerate_layouts` | every layout that does, by CP-SAT |
| `expressible` (in its own module) | what an engine's flags can say, and its connector move |
| `decode_batches`, `PREFILL_BATCHES`, `CHUNKS` | domains of the swept axes |
"""

from spaces.constraints import LayoutConstraint, structure_constraints
from spaces.enumeration import enumerate_layouts, layout_funnel
from spaces.variables import CHUNKS, MAX_WORLD, PREFILL_BATCHES, decode_batches

__all__ = [
    "CHUNKS",
    "MAX_WORLD",
    "PREFILL_BATCHES",
    "LayoutConstraint",
    "decode_batches",
    "enumerate_layouts",
    "layout_funnel",
    "structure_constraints",
]
