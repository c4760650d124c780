"""Bodies compiled in the background: served uncompiled meanwhile, swapped in when ready, kept over restarts."""

from dataclasses import dataclass
from pathlib import Path

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
