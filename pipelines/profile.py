"""How to run on this card: everything a pipeline may be told about the machine. Torch-free."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Profile:
    """How a pipeline runs on this machine.

    Args:
        device: torch's name of the device, ``"cuda"``, ``"cuda:1"`` or ``"cpu"``. Never replaced by another one.
            ``"meta"`` reads only names and shapes: such a pipeline can be examined and generates nothing.
        dtype: of the UNet, ControlNets, text encoders; the identity networks stay in float32.
        detector: ``"scrfd"`` (real weights, insightface) or ``"haar"`` (OpenCV's cascade, for the tiny profile, where
            no detector weights can be shipped).
        max_side: longest side in pixels of a picture whose size follows the photo (InstantID); multiple of 64.
        final_sigmas: where PuLID's sampler ends: ``sigma_min`` as upstream's diffusers 0.25, ``zero`` without the
            residual noise that this leaves (pulid.md §0.2).
        tiny: the weights are the embedded random ones: pictures are noise by nature.
        compile / graphs / offload: torch.compile, CUDA graphs, moving parts to the CPU; graphs and offload exclude
            each other.
    """

    device: str = "cuda"
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    detector: Literal["scrfd", "haar"] = "scrfd"
    max_side: int = 1280
    final_sigmas: Literal["sigma_min", "zero"] = "sigma_min"
    tiny: bool = False
    compile: bool = False
    graphs: bool = False
    offload: bool = False

    def __post_init__(self) -> None:
        if self.graphs and self.offload:
            raise ValueError("graphs and offload exclude each other: switch one of them off")
        if self.max_side < 64 or self.max_side % 64:
            raise ValueError(f"max_side must be a positive multiple of 64, not {self.max_side}")
