"""How to run on this card: everything a pipeline may be told about the machine. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MemoryProfile = Literal["12gb", "16gb", "24gb", "48gb"]
"""The card's memory; what does not fit waits in the computer's memory (pipelines/memory.py)."""


@dataclass(frozen=True)
class Profile:
    """How a pipeline runs on this machine.

    Args:
        device: torch's name of the device, ``"cuda"``, ``"cuda:1"`` or ``"cpu"``. Never replaced by another one.
            ``"meta"`` reads only names and shapes: such a pipeline can be examined and generates nothing.
        dtype: of the UNet and the ControlNets. Text encoders and VAE run in float16 beside bfloat16 (decision 0044),
            the identity networks always in float32.
        detector: ``"scrfd"`` (real weights, insightface) or ``"haar"`` (OpenCV's cascade, for the tiny profile, where
            no detector weights can be shipped).
        max_side: longest side in pixels of a picture whose size follows the photo (InstantID); multiple of 64.
        final_sigmas: where PuLID's sampler ends: ``sigma_min`` as upstream's diffusers 0.25, ``zero`` without the
            residual noise that this leaves (pulid.md §0.2).
        tiny: the weights are the embedded random ones: pictures are noise by nature.
        prepared: read what `python -m pipelines.prepare` has made, and no pickle; False reads upstream's files as they
            are, which are the same numbers at more cost.
        graphs: replay each kind of denoising step as one CUDA graph from its second request on
            (pipelines/sdxl/graph.py). On the CPU the same buffers are filled and the step is run again, which is no
            faster and proves the buffers.
        compile: compile each kind of step by Inductor in the background and swap it in when it is ready
            (pipelines/sdxl/compile.py); a C++ compiler must be there.
        compile_cache: folder that keeps Inductor's work over restarts; None leaves it where torch has it.
        branches: run IdentityNet, the second ControlNet and the UNet's encoder at the same time, on streams of their
            own; on the CPU one after another.
        channels_last: keep the convolutions' weights, and with them all pictures, in NHWC.
        attention: which of torch's attention kernels to use; auto lets torch choose.
        memory: the card's size; below ``"48gb"`` (everything stays on the card) networks wait in the computer's
            memory and come when needed, which excludes graphs and compiling. ``"auto"`` measures the card at load.
        identity_cache_mb / identity_cache_s: how much of found faces, identity tokens and encoded texts is kept in
            memory, and for how long after it was made; 0 MB keeps nothing. Faces are biometric data.
    """

    device: str = "cuda"
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    detector: Literal["scrfd", "haar"] = "scrfd"
    max_side: int = 1280
    final_sigmas: Literal["sigma_min", "zero"] = "sigma_min"
    tiny: bool = False
    prepared: bool = False
    graphs: bool = False
    compile: bool = False
    compile_cache: Path | None = None
    branches: bool = False
    channels_last: bool = False
    attention: Literal["auto", "cudnn", "flash", "efficient", "math"] = "auto"
    memory: Literal["auto"] | MemoryProfile = "48gb"
    identity_cache_mb: int = 0
    identity_cache_s: float = 600

    @property
    def offload(self) -> bool:
        """Whether networks wait in the computer's memory and come to the device when they are needed."""
        return self.memory not in ("auto", "48gb")

    def __post_init__(self) -> None:
        if self.graphs and self.offload:
            raise ValueError(
                f"graphs and memory {self.memory} exclude each other, because networks that come and go change their "
                "addresses: switch graphs off, or choose memory 48gb"
            )
        if self.compile and self.offload:
            raise ValueError(
                f"compile and memory {self.memory} exclude each other, because a network may leave the device while it "
                "is compiled: switch compile off, or choose memory 48gb"
            )
        if self.compile and self.branches:
            raise ValueError("compile and branches exclude each other: compiled code runs on one stream")
        if self.max_side < 64 or self.max_side % 64:
            raise ValueError(f"max_side must be a positive multiple of 64, not {self.max_side}")
        if self.identity_cache_mb < 0 or self.identity_cache_s <= 0:
            raise ValueError("identity_cache_mb must be at least 0, and identity_cache_s more than 0")
