"""Search strategies: which configurations of the space are evaluated.

Each strategy takes a space and returns a `SearchResult`. `exhaustive` evaluates all of it and
so proves its optimum; `tpe` samples layouts by Optuna and says how far it may be from it.
"""

from planner.search.exhaustive import exhaustive
from planner.search.result import SearchResult, combined
from planner.search.tpe import tpe

__all__ = ["SearchResult", "combined", "exhaustive", "tpe"]
