"""Runs Mélange's public solver on one input: started by `melange.py`, the input on standard input.

The first argument is a checkout of its repository, which needs PuLP and pandas.
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    """Solve, and say what was found in how many seconds."""
    sys.path.insert(0, sys.argv[1])
    from melange.solver import MelangeSolver

    solver = MelangeSolver(**json.load(sys.stdin))
    started = time.perf_counter()
    found = solver.run()
    json.dump({"found": found, "seconds": time.perf_counter() - started}, sys.stdout)


if __name__ == "__main__":
    main()
