"""Measured operator times: what the tables hold, and where they lie.

| name | what |
|---|---|
| `PerfStore` | finds tables in the user's folders and the shipped one, reads them on demand |
| `TableInfo` | one line of a store's listing |
| `FAMILIES`, `Family`, `Column` | the tables' schemas: columns, units, what was timed |
| `TableError` | a file that is corrupt or not of its family's schema |

`perfmodel.database.import_aiconfigurator` makes such tables from NVIDIA's aiconfigurator;
`perfmodel.database.grid` interpolates in them. Importing this package does not import
polars: that waits until a table is read.
"""

from perfmodel.database.checks import TableError
from perfmodel.database.schema import FAMILIES, Column, Family
from perfmodel.database.store import PerfStore, TableInfo

__all__ = ["FAMILIES", "Column", "Family", "PerfStore", "TableError", "TableInfo"]
