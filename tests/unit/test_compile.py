"""Bodies compiled in the background: served uncompiled meanwhile, swapped in when ready, kept over restarts."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.sdxl.compile import Compiler, artifacts_file
from pipelines.sdxl.graph import Rerun, Runner


@dataclass(frozen=True)
class Line:
    """A body that can be compiled, or with `reads` one that decides by a value, which cannot."""

    net: nn.Module
    offset: Tensor
    reads: bool = False

    def __call__(self, x: Tensor) -> tuple[Tensor]:
        if self.reads and self.offset.sum() > 0:
            return (x,)
        return (self.net(x) + self.offset,)


NET = nn.Linear(4, 4).requires_grad_(False)


def test_a_kind_is_compiled_when_it_comes_again_and_swapped_in_when_ready() -> None:
    compiler = Compiler(backend="eager", mode=None)
    runner = Runner(Rerun(), compiler)
    for seed in range(4):
        x, offset = torch.full((2, 4), float(seed)), torch.full((4,), seed / 2)
        assert torch.equal(runner.bind(Line(NET, offset))(x)[0], NET(x) + offset)
        compiler.wait()
    assert compiler.compiled == 1
    assert runner.recorded == 1, "the compiled recording takes the uncompiled one's place"
    assert not compiler.failures


def test_nothing_is_recorded_while_another_kind_is_compiled() -> None:
    """What measures kernels waits for the whole device, which would end a capture on another thread."""
    begun, over = threading.Event(), threading.Event()
    recorded_while_compiling: list[bool] = []

    def slow(graph: Any, _: Any) -> Any:
        begun.set()
        assert over.wait(60)
        return graph

    class Watched(Rerun):
        def record(self, run: Any) -> Any:
            recorded_while_compiling.append(compiler.busy)
            return super().record(run)

    compiler = Compiler(backend=slow, mode=None)
    runner = Runner(Watched(), compiler)

    def draw(rows: int) -> None:
        x, offset = torch.ones(rows, 4), torch.full((4,), float(rows))
        assert torch.equal(runner.bind(Line(NET, offset))(x)[0], NET(x) + offset)

    draw(2)
    draw(2)
    assert begun.wait(60)
    try:
        for _ in range(3):
            draw(3)
        assert runner.recorded == 1, "the kind before was recorded before it was compiled, this one waits"
    finally:
        over.set()
    compiler.wait()
    draw(3)
    compiler.wait()
    draw(2)
    assert runner.recorded == 2
    assert recorded_while_compiling == [False] * 3
    assert not compiler.failures


def test_what_cannot_be_compiled_stays_uncompiled_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    compiler = Compiler(backend="eager", mode=None)
    runner = Runner(compiler=compiler)
    for _ in range(3):
        assert runner.bind(Line(NET, torch.ones(()), reads=True))(torch.ones(2, 4))[0].shape == (2, 4)
        compiler.wait()
    assert len(compiler.failures) == 1
    assert compiler.compiled == 0
    assert "Line could not be compiled" in caplog.text


def test_a_torn_cache_costs_time_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifacts_file(tmp_path, torch.device("cpu")).write_bytes(b"torn")
    Compiler(tmp_path, backend="eager", mode=None).wait()
    assert "made anew" in caplog.text


def test_while_a_compiled_step_cannot_be_recorded_the_uncompiled_one_is() -> None:
    class Narrow(Rerun):
        """Has no room for what is compiled."""

        def record(self, run: Any) -> Any:
            if compiler.compiled:
                compiler_seen.append(1)
                if len(compiler_seen) == 1:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return super().record(run)

    compiler_seen: list[int] = []
    compiler = Compiler(backend="eager", mode=None)
    runner = Runner(Narrow(), compiler)
    recorded = []
    for _ in range(4):
        assert torch.equal(runner.bind(Line(NET, torch.ones(4)))(torch.ones(2, 4))[0], NET(torch.ones(2, 4)) + 1)
        recorded.append(runner.recorded)
        compiler.wait()
    assert recorded == [0, 1, 0, 1], "seen, recorded, compiled and in vain, recorded uncompiled"
