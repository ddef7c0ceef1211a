"""What a plan's lines on the terminal say, apart from a solved one."""

from __future__ import annotations

import pytest

from perfmodel.errors import InputError
from planner.report import engine_title, means_lines


def test_means_are_told_where_a_target_is_another_statistic() -> None:
    assert means_lines([{}, {"ttft": "mean", "ttit": "mean"}]) == []
    (line,) = means_lines([{"ttft": "p99", "ttit": "mean"}, {"ttft": "p95"}])
    assert "targets of p95 and p99 are met" in line


def test_the_engine_of_a_query_that_names_none_is_the_default() -> None:
    assert engine_title({}) == "TensorRT-LLM"
    assert engine_title({"engine": "sglang"}) == "SGLang"
    with pytest.raises(InputError, match="unknown engine"):
        engine_title({"engine": "tgi"})
