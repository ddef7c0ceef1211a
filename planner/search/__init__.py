"""Search strategies: which configurations of the space are evaluated.

Each strategy is a function `(space, progress, *, seed, trials) -> SearchResult`. `exhaustive`
evaluates all of them and so proves its optimum; `tpe` samples layouts by Optuna.
"""

from planner.search.exhaustive import exhaustive
from planner.search.result import SearchResult, combined
from planner.search.tpe import tpe

__all__ = ["SearchResult", "combined", "exhaustive", "tpe"]
