"""What replaying one golden case found."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One case's errors against what upstream computed.

    Args:
        latents_rel: largest absolute error of the final latents over the largest recorded value.
        image_max: largest absolute error of the decoded image.
        latents_norm: length of the latents' error over the length of the recorded ones: the measure for half precision.
        problem: why the case could not run; None when it ran.
    """

    name: str
    latents_rel: float
    image_max: float
    problem: str | None = None
    latents_norm: float = float("nan")
