"""`make gpu-check` on a processor: the same code with a tiny case, whose figures mean nothing."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from read_cache.backbones import Trace
from read_cache.backbones.t5 import T5
from read_cache.bench import gpu
from read_cache.bench.case import Case
from read_cache.networks.read import Read

EQUALITIES = [
    f"{what}: difference from the processor" for what in ("extraction in fp32", "extraction in bf16", "trained network")
]
TWO_TOGETHER = "training: a pass of 2 networks / 2 passes of one"
Check = Callable[[], tuple[int, dict[str, str]]]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """A function that runs the check with one network and with two; its exit code, and the verdicts by row."""
    monkeypatch.setattr(gpu, "COUNTS", (1, 2))

    def check() -> tuple[int, dict[str, str]]:
        code = gpu.main(["--device", "cpu"])
        rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
        return code, {row[1].strip(): row[4].strip() for row in rows}

    return check


def growing(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function whose results grow by a thousandth of the first with each call."""
    calls = itertools.count(1000)
    return lambda *given, **named: forward(*given, **named) * (next(calls) / 1000)


def test_targets_that_are_missed_do_not_fail(check: Check) -> None:
    code, verdicts = check()
    assert code == 0
    assert [verdicts[row] for row in EQUALITIES] == ["met"] * 3
    assert verdicts[TWO_TOGETHER] == "**missed**", "two networks never take a fifth of the time of one"
    assert {f"training, K = {K}: rows/s" for K in (1, 2)} < set(verdicts)
    assert {"copy rate, 10^9 bytes/s", "matrix rate, 10^9 operations/s", "extraction: fill, bf16, GB/s"} < set(verdicts)


def test_a_network_that_differs_fails(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Read, "forward", growing(Read.forward))
    code, verdicts = check()
    assert code == 1
    assert [verdicts[row] for row in EQUALITIES] == ["met", "met", "**missed**"]


def test_states_that_differ_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the attention weights of one layer do."""
    case, forward, calls = Case(gpu.CASES["cpu"], tmp_path), T5.forward, itertools.count(1)

    def spoiled(*given: Any, **named: Any) -> Trace:
        trace = forward(*given, **named)
        if trace["encoder"].self_attention:
            trace["encoder"].self_attention[-1] /= next(calls)
        return trace

    monkeypatch.setattr(T5, "forward", spoiled)
    assert not gpu.check_states(case)


@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_no_equality(spoil: float) -> None:
    right, wrong = torch.ones(2, 3), torch.tensor([[1, 1, spoil], [1, 1, 1]])
    assert gpu.show_difference("", [(right, right)], "fp32")
    assert not gpu.show_difference("", [(right, right), (wrong, right)], "fp32")
    assert not gpu.show_difference("", [(wrong, wrong)], "fp32")


def test_without_a_gpu_one_sentence_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    told = capsys.readouterr()
    assert "DEVICE=cpu" in told.err
    assert len(told.err.splitlines()) == 1
    assert not told.out
