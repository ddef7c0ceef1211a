"""How long a newcomer waits: the README's own commands in a fresh clone and a fresh environment.

    python experiments/newcomer.py

The commands are read from README.md, so that what is timed is what it says; those that install for
developers (`pip install -e`) are left out. The first command that fails ends the run. Packages come
from the registry that pip is configured for, without pip's cache.
"""

from __future__ import annotations

import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"

NOT_A_NEWCOMERS = ("PIP_CONSTRAINT", "PYTHONPATH", "VIRTUAL_ENV")
"""Variables that a developer's shell may have."""


def commands(readme: str) -> list[str]:
    """What a README's `sh` blocks tell a user to type, one command each.

    Args:
        readme: its text.
    """
    blocks = re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]
    typed = [line for line in lines if line and "pip install -e" not in line]
    return [command.strip() for line in typed for command in line.split("&&")]


def follow(typed: list[str], folder: Path) -> list[dict[str, Any]]:
    """Run commands one after the other in a fresh clone and environment.

    Args:
        typed: of `commands`.
        folder: empty; the clone and the environment are made in it.

    Returns:
        The commands, the seconds of each, those of processors, and those since the beginning.

    Raises:
        subprocess.CalledProcessError: one failed; what it said has been shown.
    """
    clone, environment = folder / "clone", folder / "environment"
    variables = {name: value for name, value in os.environ.items() if name not in NOT_A_NEWCOMERS}
    variables["PATH"] = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables["PIP_NO_CACHE_DIR"] = "1"
    start, steps = time.perf_counter(), []

    def run(shown: str, command: list[str], where: Path) -> None:
        begun, used = time.perf_counter(), processor_s()
        subprocess.run(command, cwd=where, env=variables, check=True, stdout=sys.stderr)
        now = time.perf_counter()
        steps.append(
            {
                "command": shown,
                "seconds": round(now - begun, 2),
                "processor_s": round(processor_s() - used, 2),
                "since_start_s": round(now - start, 2),
            }
        )

    run("git clone", ["git", "clone", "--quiet", str(ROOT), str(clone)], folder)
    run("python -m venv", [sys.executable, "-m", "venv", str(environment)], folder)
    for command in typed:
        run(command, ["bash", "-c", command], clone)
    return steps


def processor_s() -> float:
    """What all commands so far took of processors: on a busy machine the steadier figure."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Time it, print a table, and write `results/newcomer.json`."""
    load = os.getloadavg()[0]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        steps = follow(commands(readme), Path(folder))
    print("  seconds processor   in all  command")
    for step in steps:
        seconds = (step[name] for name in ("seconds", "processor_s", "since_start_s"))
        print("".join(f"{value:9.1f}" for value in seconds), step["command"], sep="  ")
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "load_before": round(load, 1),
        "steps": steps,
    }
    (RESULTS / "newcomer.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
