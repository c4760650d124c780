"""What fits on which card, and what waits in the computer's memory. Torch-free.

Figures are from performance.md §1.3, counted and not measured; decision 0034.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.errors import LoadError
from pipelines.profile import MemoryProfile

GIB = 1024**3

LEAST: Mapping[MemoryProfile, int] = {
    "48gb": 30 * GIB,
    "24gb": 20 * GIB,
    "16gb": 15 * GIB,
    "12gb": round(11.6 * GIB),
}
"""Bytes that a card has at least for each profile, the largest first; a card sold as 24 GB has 22 to 24 GiB."""

RESERVE = round(1.1e9)
"""Bytes that are not the networks': CUDA's context, work space of cuBLAS and cuDNN, the face models."""

STEP_BYTES = 200
"""Per pixel and row of the batch, for what a step holds at once (0.39 GB for two rows of 960x1280)."""

DECODE_BYTES = 800
"""Per pixel and byte of precision, for what the VAE holds at once (1.89 GB for 960x1280 in half precision)."""


@dataclass(frozen=True)
class Stage:
    """A part of a request and what must be on the card during it.

    Args:
        weights: bytes by network; the same name in two stages is the same network.
        scratch: bytes for what is computed.
    """

    name: str
    weights: Mapping[str, int]
    scratch: int = 0

    @property
    def size(self) -> int:
        return sum(self.weights.values()) + self.scratch


@dataclass(frozen=True)
class Plan:
    """Whether and how the stages fit; `lines` say so in words."""

    fits: bool
    stays: bool
    lines: tuple[str, ...]


def choose(total: int) -> MemoryProfile:
    """The memory profile of a card of `total` bytes. Raises LoadError when it is too small for either model."""
    for name, least in LEAST.items():
        if total >= least:
            return name
    raise LoadError(
        f"the card has {total / GIB:.1f} GiB, and the least that a model needs is {LEAST['12gb'] / GIB:.1f} GiB. "
        "Use a larger one, or set VERAICON_DEVICE=cpu to run on the CPU, slowly"
    )


def budget_of(memory: MemoryProfile) -> int:
    """Bytes that the networks and what they compute may take."""
    return LEAST[memory] - RESERVE


def step_scratch(rows: int, width: int, height: int) -> int:
    """Bytes that a denoising step of so many rows takes beside its weights."""
    return STEP_BYTES * rows * width * height


def decode_scratch(width: int, height: int, itemsize: int) -> int:
    """Bytes that decoding one picture takes, in a precision of `itemsize` bytes."""
    return DECODE_BYTES * itemsize * width * height


def plan(memory: MemoryProfile, stages: Sequence[Stage]) -> Plan:
    """How these stages, of all endpoints that one worker offers, fit a card of this profile."""
    budget = budget_of(memory)
    weights = {name: size for stage in stages for name, size in stage.weights.items()}
    total, scratch = sum(weights.values()), max((stage.scratch for stage in stages), default=0)
    too_large = [stage for stage in stages if stage.size > budget]
    stays = not too_large and total + scratch <= budget
    lines = [f"memory profile {memory}: {gb(budget)} for networks and pictures, {gb(RESERVE)} for the rest"]
    lines += [f"{stage.name}: {gb(stage.size)} of {gb(budget)}" for stage in stages]
    if too_large:
        lines += [f"{stage.name} does not fit: offer smaller pictures, or use a larger card" for stage in too_large]
    elif stays:
        lines.append(f"all networks stay on the card: {gb(total)}")
    else:
        lines.append(f"networks come and go: {gb(total)} in all, of which {gb(total + scratch - budget)} wait")
    return Plan(not too_large, stays, tuple(lines))


def gb(size: int) -> str:
    """Bytes in GB, as cards are sold."""
    return f"{size / 1e9:.1f} GB"
