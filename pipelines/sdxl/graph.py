"""How a denoising step is run: as it is, or replayed as one CUDA graph, compiled or not.

Interface, for pipelines, benchmark and checks::

    pipeline = InstantIDPipeline.load(folder, Profile(graphs=True, compile=True, channels_last=True))
    pipeline.runner                  # this pipeline's Runner; `Runner()` runs everything as it is
    pipeline.runner = Runner(recorder=CudaGraphs(device), compiler=Compiler(), most=8)
    pipeline.generate(...)           # 1st request of its kind: as it is; from the 2nd on: replayed
    pipeline.runner.compiler.wait()  # until everything asked for so far is compiled; the next request takes it
    pipeline.runner.clear()          # forget all recordings, e.g. before networks go
    pipeline.runner.recorded         # how many kinds are recorded now

A `Body` is a frozen dataclass with `__call__(*tensors) -> tuple of tensors`: its fields are everything that is constant
over a request (tensors anywhere inside), its arguments what changes from step to step. `runner.bind(body)` gives a
callable with the body's signature, which is what `make_step` calls. The kind of a body is told by the shapes, dtypes
and strides of all its tensors and by everything in it that is no tensor, so that whatever differs is recorded on its
own: sizes, batch, guidance, ControlNets, masks (decision 0033).
"""

import logging
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipelines.profile import Profile
from pipelines.sdxl.compile import Compiler
from pipelines.sdxl.device import kernels_of
from pipelines.sdxl.patience import Patience
from pipelines.sdxl.tree import kind_of, tensors, with_tensors
from pipelines.shelf import Shelf

MOST_RECORDED = 8
"""Kinds that are kept recorded; each costs its buffers (about 0.2 GB for InstantID at 960x1280), the memory for what
is computed in between is one pool for all."""

MOST_SEEN = 64
"""Kinds remembered as having been asked for once, which is what the second request is recognised by."""

WARM_UPS = 2
"""Runs before a capture, in which cuBLAS, cuDNN and Triton make what must not be made during it."""

Outputs = tuple[Tensor, ...]
Body = Callable[..., Outputs]

log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Records one run so that it can be replayed on the same buffers."""

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """Run once; returns what replays it, and the outputs, which each replay writes anew."""
        ...


class Rerun:
    """A recorder for any device, which runs again instead of replaying: shows on the CPU that the buffers are right."""

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """See Recorder."""
        outputs = run()

        def replay() -> None:
            for output, again in zip(outputs, run(), strict=True):
                output.copy_(again)

        return replay, outputs


class CudaGraphs:
    """Records CUDA graphs that share one memory pool.

    Sharing is safe because they are never replayed at the same time, and their outputs are copied right after.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()
        self._first, _ = self.record(lambda: (torch.zeros(1, device=device),))  # keeps the pool when all others go

    def record(self, run: Callable[[], Outputs]) -> tuple[Callable[[], object], Outputs]:
        """See Recorder. Other threads may use the device meanwhile: their calls are not captured."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                run()
        current.wait_stream(self._stream)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = run()
        return graph.replay, outputs


class Recording:
    """One kind of body, recorded on buffers of its own."""

    def __init__(self, recorder: Recorder, run: Callable[..., Outputs], body: Body, inputs: Sequence[Tensor]) -> None:
        self._body, self._inputs = with_tensors(body, torch.clone), [one.clone() for one in inputs]
        self._replay, self._outputs = recorder.record(lambda: run(self._body, *self._inputs))
        self._filled_for: weakref.ref[Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, body: Body, inputs: Sequence[Tensor]) -> Outputs:
        """The outputs for this body and these inputs, which must be of the recorded kind.

        Requests may take turns: the buffers are filled anew whenever they hold another one's values.
        """
        with self._lock:
            if self._filled_for is None or self._filled_for() is not body:
                for buffer, value in zip(tensors(self._body), tensors(body), strict=True):
                    buffer.copy_(value)
                self._filled_for = weakref.ref(body)
            for buffer, value in zip(self._inputs, inputs, strict=True):
                buffer.copy_(value)
            self._replay()
            return tuple(output.clone() for output in self._outputs)


class Runner:
    """Runs bodies. Without recorder and compiler: as they are.

    Args:
        recorder: how kinds that come again are recorded.
        compiler: compiles kinds that come again, in the background; what is ready is taken with the next request.
        most: recordings kept; the least recently used one goes.

    Attributes:
        failures: why a kind could not be recorded, the newest texts; such a kind runs as it is until it is tried again.
    """

    def __init__(
        self, recorder: Recorder | None = None, compiler: Compiler | None = None, most: int = MOST_RECORDED
    ) -> None:
        self.recorder, self.compiler, self.most = recorder, compiler, most
        self.failures = deque[str](maxlen=MOST_SEEN)
        self._patience = Patience()
        self._seen = OrderedDict[Hashable, None]()
        self._recordings = OrderedDict[tuple[Hashable, bool], Callable[..., Outputs]]()
        self._lock = threading.Lock()

    @property
    def recorded(self) -> int:
        return len(self._recordings)

    def clear(self) -> None:
        """Forget every recording, with the buffers."""
        with self._lock:
            self._recordings.clear()
            self._seen.clear()
            self._patience.clear()
            if self.compiler:
                self.compiler.clear()

    def bind(self, body: Body) -> Body:
        """A callable with the signature of `body`; how it runs is decided at its first call, for all of them."""
        if self.recorder is None and self.compiler is None:
            return body
        chosen: list[Callable[..., Outputs]] = []

        def run(*inputs: Tensor) -> Outputs:
            if not chosen:
                chosen.append(self._choose(body, inputs))
            return chosen[0](body, inputs)

        return run

    def _choose(self, body: Body, inputs: Sequence[Tensor]) -> Callable[..., Outputs]:
        kind = kind_of((body, inputs))
        with self._lock:
            if not self._came_before(kind):
                return as_it_is
            key, run = next(self._ways(kind), (None, as_called))
            if key is None:
                return as_it_is
            if key not in self._recordings:
                if self._must_wait:
                    return self._recordings.get((kind, False), as_it_is)
                self._recordings.pop((kind, False), None)
                recording = self._record(run, body, inputs)
                if recording is None:
                    self._patience.failed(key)
                    return as_it_is
                self._recordings[key] = recording
            if self.compiler:
                self.compiler.ask(kind, body, inputs)
            self._recordings.move_to_end(key)
            while len(self._recordings) > self.most:
                self._recordings.popitem(last=False)
            return self._recordings[key]

    def _ways(self, kind: Hashable) -> Iterator[tuple[tuple[Hashable, bool], Callable[..., Outputs]]]:
        """The recordings that there are or may be now, the fastest first: of the compiled body, of the body itself."""
        compiled = self.compiler and self.compiler.ready(kind)
        for key, run in (((kind, True), compiled), ((kind, False), as_called)):
            if run and (key in self._recordings or not self._patience.rests(key)):
                yield key, run

    @property
    def _must_wait(self) -> bool:
        """Whether recording would fail now: what measures kernels waits for the whole device, which ends a capture."""
        return self.recorder is not None and self.compiler is not None and self.compiler.busy

    def _came_before(self, kind: Hashable) -> bool:
        """Whether a body of this kind was run before; photos of odd sizes come once and are not worth a recording."""
        before = kind in self._seen
        self._seen[kind] = None
        self._seen.move_to_end(kind)
        while len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)
        return before

    def _record(
        self, run: Callable[..., Outputs], body: Body, inputs: Sequence[Tensor]
    ) -> Callable[..., Outputs] | None:
        if self.recorder is None:
            return lambda body, inputs: run(body, *inputs)
        try:
            return Recording(self.recorder, run, body, inputs)
        except RuntimeError as error:  # also torch's out of memory; what is wrong with the body itself shows again
            self.failures.append(str(error))
            log.warning(
                "a step of %s could not be recorded and runs as it is, slower, with the same pictures: %s. It is tried "
                "again later. If it is memory, choose a smaller one for the setting memory_profile",
                type(body).__name__,
                error,
            )
            return None


def as_it_is(body: Body, inputs: Sequence[Tensor]) -> Outputs:
    """Neither recorded nor compiled."""
    return body(*inputs)


def as_called(body: Body, *inputs: Tensor) -> Outputs:
    """The signature of a compiled body, uncompiled."""
    return body(*inputs)


def runner_of(profile: Profile, device: torch.device, shelf: Shelf | None = None) -> Runner:
    """The Runner that the profile asks for; all pipelines of a shelf have one compiler."""
    recorder = (CudaGraphs(device) if device.type == "cuda" else Rerun()) if profile.graphs else None
    cache = Path(profile.compile_cache) if profile.compile_cache else None
    shelf = shelf or Shelf()

    def compiler() -> Compiler:
        return Compiler(cache, attention=kernels_of(profile, shelf))

    return Runner(recorder, shelf.get((Compiler, profile), [], compiler) if profile.compile else None)
