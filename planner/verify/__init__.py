"""A deployed plan checked against what a load generator measured.

| name | what |
|---|---|
| `read_results` | a load generator's result file, whichever wrote it |
| `compare` | where it differs from the plan, against the known error |
| `row_of`, `append_row` | the run as a row for `planner calibrate` |
"""

from planner.verify.compare import Comparison, Verdict, compare
from planner.verify.results import Measured, read_results
from planner.verify.rows import append_row, row_of

__all__ = [
    "Comparison",
    "Measured",
    "Verdict",
    "append_row",
    "compare",
    "read_results",
    "row_of",
]
