"""Digests: equal for equal values in any process, different otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from perfmodel.architecture import load_model
from planner.digest import digest

CODE = (
    "from perfmodel.architecture import load_model; from planner.digest import digest\n"
    "print(digest(load_model('Qwen/Qwen3-235B-A22B-FP8'), {'b': 1, 'a': (2.5, None)}))"
)


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_same_in_every_process(seed: str) -> None:
    here = digest(load_model("Qwen/Qwen3-235B-A22B-FP8"), {"a": [2.5, None], "b": 1})
    said = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == here


def test_different_where_anything_differs() -> None:
    values = [
        1,
        1.5,
        "1",
        None,
        (1, 2),
        (2, 1),
        {"a": 1},
        {"a": 2},
        frozenset("ab"),
        frozenset("b"),
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(1, 2) != digest((1, 2))
