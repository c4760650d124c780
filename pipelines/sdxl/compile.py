"""Bodies compiled by Inductor in the background, while requests are served by the uncompiled ones.

Interface::

    compiler = Compiler(cache=folder, backend="inductor", mode="max-autotune-no-cudagraphs")
    compiler.ask(kind, body, inputs)     # begins to compile this kind, in the background
    compiler.ready(kind)                 # compiled callable(body, *inputs); None as long as there is none
    compiler.busy                        # whether something is being compiled now
    compiler.compiled                    # how many kinds are compiled now
    compiler.wait()                      # until nothing is being compiled
    compiler.failures                    # why kinds could not be compiled and stay uncompiled, one text each

What was compiled lies in `cache` as one file per torch version and card, which another machine with the same ones can
use: copy the folder (decision 0033).
"""

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.sdxl.device import AttentionKernels
from pipelines.sdxl.tree import with_tensors

MODE = "max-autotune-no-cudagraphs"
"""Inductor's own CUDA graphs would copy what ours has in place already."""

MOST_COMPILED = 4
"""Kinds that are compiled, the first to come again; Inductor takes minutes for each, and Dynamo keeps 8 of a class."""

Outputs = tuple[Tensor, ...]
Compiled = Callable[..., Outputs]

log = logging.getLogger(__name__)


class Compiler:
    """Compiles kinds of bodies, one after another, on a thread of its own.

    Args:
        cache: folder for what was compiled; None keeps it where torch does, on this machine only.
        backend / mode: of torch.compile.
        most: kinds compiled; later ones stay as they are.
        attention: the kernels to prefer, the same as the steps do.
    """

    def __init__(
        self,
        cache: Path | None = None,
        backend: str | Callable[..., Any] = "inductor",
        mode: str | None = MODE,
        most: int = MOST_COMPILED,
        attention: AttentionKernels | None = None,
    ) -> None:
        self.attention = attention or AttentionKernels()
        self.cache, self.backend, self.mode, self.most = cache, backend, mode, most
        self.failures: list[str] = []
        self._compiled: dict[Hashable, Compiled | None] = {}
        self._running: set[Any] = set()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compile")
        self._lock = threading.Lock()
        if cache:
            self._running.add(self._thread.submit(self._recall, cache))

    @property
    def compiled(self) -> int:
        """How many kinds are compiled now."""
        return sum(run is not None for run in self._compiled.values())

    @property
    def busy(self) -> bool:
        """Whether something is being compiled, and its kernels measured, now or next."""
        return not all(one.done() for one in list(self._running))

    def ready(self, kind: Hashable) -> Compiled | None:
        """The compiled body of this kind, to be called as (body, *inputs); None as long as there is none."""
        return self._compiled.get(kind)

    def ask(self, kind: Hashable, body: Callable[..., Outputs], inputs: Sequence[Tensor]) -> None:
        """Begin to compile this kind, once, on copies of the tensors."""
        with self._lock:
            if kind not in self._compiled and len(self._compiled) < self.most:
                self._compiled[kind] = None
                copies = with_tensors((body, tuple(inputs)), torch.clone)
                self._running.add(self._thread.submit(self._compile, kind, *copies))

    def wait(self) -> None:
        """Until everything asked for so far is compiled, or has failed."""
        while self._running:
            done = wait(list(self._running)).done
            self._running -= done

    def clear(self) -> None:
        """Forget what was compiled; what lies in the cache is found again."""
        with self._lock:
            self._compiled.clear()

    def _compile(self, kind: Hashable, body: Any, inputs: Sequence[Tensor]) -> None:
        """On the thread: compile and run once, on a stream beside the one that serves."""
        try:
            run: Any = torch.compile(
                type(body).__call__, fullgraph=True, dynamic=False, backend=self.backend, mode=self.mode
            )
            with torch.inference_mode(), beside(inputs[0].device), self.attention.preferred():
                run(body, *inputs)
            if self.cache:
                save_artifacts(artifacts_file(self.cache, inputs[0].device))
        except Exception as error:  # Dynamo, Inductor, Triton and the C++ compiler raise dozens of kinds
            self.failures.append(f"{type(error).__name__}: {error}")
            log.warning("a step of %s could not be compiled and stays uncompiled: %s", type(body).__name__, error)
            return
        with self._lock:
            if kind in self._compiled:
                self._compiled[kind] = run

    def _recall(self, cache: Path) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        file = artifacts_file(cache, device)
        if not file.is_file():
            return
        if torch.compiler.load_cache_artifacts(file.read_bytes()) is None:
            log.warning("%s holds no compiled code that torch can use. It is made anew", file)


def beside(device: torch.device) -> Any:
    """A context whose work on a GPU does not queue up behind that of the thread that serves."""
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))  # the copies are made there
    return torch.cuda.stream(stream)


def artifacts_file(cache: Path, device: torch.device) -> Path:
    """Compiled code is for one torch and one kind of card."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return cache / f"torch-{torch.__version__}-{card.replace(' ', '-')}.artifacts"


def save_artifacts(file: Path) -> None:
    """Write everything that this process has compiled, or found compiled, into one file, at once or not at all."""
    artifacts = torch.compiler.save_cache_artifacts()
    if artifacts is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.part")
    partial.write_bytes(artifacts[0])
    partial.replace(file)
