"""Scene: a folder through which a test directs one faulty portrait: where it waits, how it fails, and when it ran."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

Failure = Literal["crash", "device lost", "out of memory", "bug", "not a number", "hang", "hoard", "none"]
"""What befalls one run: SIGSEGV, a sticky CUDA error, torch's failed allocation, an error that nobody foresaw, NaN
latents, a step without end, memory that the process keeps for good, nothing."""

STORED = 100
"""A moment rather than a step: a picture's file is written, and its row is not."""

MARK = "directed by "
LOOK_S = 0.01
PATIENCE_S = 120.0
"""A worker that died is started again, after a pause, on a machine that has other things to do."""


@dataclass(frozen=True)
class Scene:
    """One portrait's directions. The test makes it, and the pipeline finds it by the portrait's prompt."""

    folder: Path

    # The test's side

    @classmethod
    def at(cls, folder: Path) -> Self:
        """A new one; nothing is held and nothing fails."""
        folder.mkdir(parents=True)
        return cls(folder)

    @property
    def prompt(self) -> str:
        return f"portrait, {MARK}{self.folder}"

    def hold(self, step: int) -> None:
        """Every run waits after this step until `release`; 0: before the first."""
        (self.folder / f"hold-{step}").touch()

    def release(self) -> None:
        for held in self.folder.glob("hold-*"):
            held.unlink()

    @property
    def held(self) -> bool:
        return any(self.folder.glob("hold-*"))

    def fail(self, *failures: Failure) -> None:
        """What befalls the first run, the second, and so on; those after the last are good ones."""
        (self.folder / "failures").write_text("\n".join(failures))

    @property
    def runs(self) -> list[int]:
        """The process of every run so far."""
        return [int(line) for line in self._lines("runs")]

    @property
    def steps(self) -> list[int]:
        """The steps that were reached so far, in all runs; 0: about to make the first."""
        return [int(line) for line in self._lines("steps")]

    def wait_for(self, step: int, times: int = 1) -> int:
        """The process of the newest run, once `step` was reached so many times."""
        limit = time.monotonic() + PATIENCE_S
        while (reached := self.steps.count(step)) < times:
            assert time.monotonic() < limit, f"step {step} was reached {reached} of {times} times in {PATIENCE_S} s"
            time.sleep(LOOK_S)
        return self.runs[-1]

    # The pipeline's side

    @classmethod
    def of(cls, prompt: str) -> Self | None:
        _, mark, folder = prompt.partition(MARK)
        return cls(Path(folder)) if mark else None

    def begin(self) -> None:
        self._append("runs", os.getpid())

    def reach(self, step: int) -> None:
        self._append("steps", step)
        while self.holds(step):
            time.sleep(LOOK_S)

    def holds(self, step: int) -> bool:
        return (self.folder / f"hold-{step}").exists()

    @property
    def failure(self) -> str:
        """What befalls the run that began last."""
        return (["none", *self._lines("failures")] + ["none"] * len(self.runs))[len(self.runs)]

    def _lines(self, name: str) -> list[str]:
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []

    def _append(self, name: str, value: int) -> None:
        with (self.folder / name).open("a") as trace:
            trace.write(f"{value}\n")
