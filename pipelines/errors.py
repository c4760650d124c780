"""What can go wrong in a pipeline, without any notion of HTTP. server/errors.py turns these into fal's bodies."""

from collections.abc import Mapping
from typing import Any


class PipelineError(Exception):
    """Root of every error a pipeline raises on purpose."""


class InputError(PipelineError):
    """One field of the request cannot be used; fal answers 422 naming it.

    Args:
        loc: where in the request's body, e.g. ``("reference_images", 1, "image_url")``.
        message: what is wrong and what to do; the class docstring's first line when omitted.
        ctx: fal's ``ctx`` of this error type, e.g. ``{"min_width": 256}``.
    """

    type = "value_error"

    def __init__(
        self, loc: tuple[str | int, ...], message: str | None = None, ctx: Mapping[str, Any] | None = None
    ) -> None:
        self.loc = loc
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        self.ctx = dict(ctx or {})
        super().__init__(self.message)


class FaceNotFound(InputError):
    """Could not detect a face in the image. Use a photo in which one face is clearly visible."""

    type = "face_detection_error"


class ImageTooLarge(InputError):
    """The image is too large."""

    type = "image_too_large"


class ImageTooSmall(InputError):
    """The image is too small."""

    type = "image_too_small"


class FeatureNotSupported(InputError):
    """This server does not offer that."""

    type = "feature_not_supported"


class NotOneOf(InputError):
    """The value is none of those expected; they stand in ctx as ``expected``."""

    type = "one_of"


class Cancelled(PipelineError):
    """on_step asked to stop."""


class BadPicture(PipelineError):
    """The pipeline produced NaN or a black picture; it is an error, never a result."""


class OutOfMemory(PipelineError):
    """The device's memory did not suffice for this request; what it had taken is freed. The worker tries once more."""


class DeviceLost(PipelineError):
    """The device answers no longer (a sticky CUDA error): only a new process can use it. The job is run again there."""


class LoadError(PipelineError):
    """A checkpoint is missing or does not have the expected keys and shapes; the message names the file."""
