"""A plan deployed: a folder of files, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from perfmodel.engine import ENGINES as PROFILES
from perfmodel.engine import PYTORCH
from perfmodel.errors import ConfigError, InputError
from planner.deploy.engine import Engine
from planner.deploy.intent import Gap, Rollout, fit_layouts, read_rollout
from planner.deploy.manifests import as_yaml, checkpoint_objects
from planner.deploy.readme import readme
from planner.deploy.sglang import Sglang
from planner.deploy.targets import TARGETS, Files
from planner.deploy.trtllm import Trtllm
from planner.deploy.vllm import Vllm
from planner.target import engine_of, runs_on

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Vllm(), Sglang(), Trtllm())}
"""Serving engines, by name."""


class InexpressibleError(InputError):
    """A plan asks for what its target cannot be told."""


def write_deployment(
    data: Mapping[str, Any],
    source: str,
    target: str,
    out: Path,
    *,
    fleet: int = 0,
    approximate: bool = False,
    search_path: Sequence[Path] = (),
) -> tuple[list[Path], list[Gap]]:
    """Write what deploys one of a plan's fleets (0: the best) on a target.

    Args:
        out: the folder, which must not exist yet or be empty.
        approximate: what the target cannot express is replaced by the nearest that it can.

    Returns:
        The files written, and what was approximated.

    Raises:
        InexpressibleError: there is such, and it was not to be approximated.
        InputError: a bad plan or folder; nothing is written.
    """
    files, gaps = deployment(
        data, source, target, fleet=fleet, approximate=approximate, search_path=search_path
    )
    write_folder(out, files)
    return [out / name for name in files], gaps


def deployment(
    data: Mapping[str, Any],
    source: str,
    target: str,
    *,
    fleet: int = 0,
    approximate: bool = False,
    search_path: Sequence[Path] = (),
) -> tuple[Files, list[Gap]]:
    """The files and gaps of `write_deployment`, not written."""
    if target not in TARGETS:
        raise InputError(f"--target: expected one of {', '.join(TARGETS)}, got {target!r}")
    rollout, problem = read_rollout(data, source, fleet, target, search_path)
    engine = _engine(rollout, target)
    rollout, gaps = fit_layouts(rollout, problem)
    gaps += [gap for pool in rollout.pools for gap in engine.gaps(rollout, pool)]
    if gaps and not approximate:
        lines = [f"  {gap.what}; nearest: {gap.nearest}" for gap in gaps]
        raise InexpressibleError(
            "\n".join(
                [
                    f"{source}: {target} cannot be told all of this plan:",
                    *lines,
                    f"solve again with `target: {target}` (`planner solve --target {target}`), "
                    "or give --approximate for the nearest",
                ]
            )
        )
    models = {"kubernetes/models.yaml": as_yaml(checkpoint_objects(rollout))}
    files = {**models, **TARGETS[target](rollout, engine)}
    return {**files, "README.md": readme(rollout, engine, target, gaps, sorted(files))}, gaps


def _engine(rollout: Rollout, target: str) -> Engine:
    if rollout.engine == PYTORCH.name:
        raise InputError(
            f"{target} runs {', '.join(PROFILES)}: this plan is for {rollout.engine} alone"
        )
    engine = ENGINES[engine_of(target, rollout.engine)]
    for pool in rollout.pools:
        if not runs_on(engine.name, pool.device):
            raise InputError(f"{engine.title} does not run on {pool.device} ({pool.role})")
    return engine


def write_folder(out: Path, files: Mapping[str, str]) -> None:
    """Write files into a new folder, whole or not at all.

    Raises:
        ConfigError: it holds something already, or cannot be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"{out}: already there; expected a new or an empty folder")
        for name, text in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if path.suffix == ".sh":
                path.chmod(0o755)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)
