"""SDXL in one file: Stability's original names of all networks at once, translated by diffusers' own tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from pipelines.errors import LoadError

OPEN_CLIP = "conditioner.embedders.1.model."
"""Where SDXL keeps its second text encoder."""

CONVERTERS: dict[str, Callable[[dict[str, Tensor], Any], dict[str, Tensor]]] = {
    "unet": lambda state, net: convert_ldm_unet_checkpoint(state, net.config),
    "vae": lambda state, net: convert_ldm_vae_checkpoint(state, net.config),
    "text_encoder": lambda state, _: convert_ldm_clip_checkpoint(state),
    "text_encoder_2": lambda state, net: convert_open_clip_checkpoint(net, state, OPEN_CLIP),
}


def from_single_file(state: dict[str, Tensor], net: Any, name: str, file: Path) -> dict[str, Tensor]:
    """The tensors of one network under the names that diffusers or transformers gives them.

    Args:
        state: all tensors of the file; may be on the meta device.
        net: the empty network, for its config.
        name: ``unet``, ``vae``, ``text_encoder`` or ``text_encoder_2``.

    Raises:
        LoadError: the file lacks what every SDXL has.
    """
    try:
        return CONVERTERS[name](state, net)
    except (KeyError, AttributeError) as error:
        raise LoadError(f"{file} is no SDXL checkpoint in one file: its {name} lacks {error}") from error
