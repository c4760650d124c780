"""The denoising steps that one has without this project, composed of diffusers' parts: a yardstick of the benchmarks.

Shaped like the loops of diffusers' own pipelines (StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline):
stock networks and attention, everything projected and embedded in every step, the scheduler's own `step`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from pipelines.sdxl.attention import EXTREME_STYLE, FIDELITY, FIRST_TOKENS, IdentityMode
from pipelines.sdxl.denoise import Step
from scripts.step_inputs import Inputs, InstantIDInputs

MODES = {"fidelity": FIDELITY, "extreme style": EXTREME_STYLE}

Weights = Iterable[Sequence[nn.Parameter]]
"""Per cross attention the weights of its projections of the identity to key and value."""


def set_processors(net: UNet2DConditionModel, own: Any, cross: Callable[[Any], Any]) -> None:
    """Give every self attention the processor `own`, and every cross attention what `cross` makes of it."""
    attns: dict[str, Any] = {name: net.get_submodule(name.removesuffix(".processor")) for name in net.attn_processors}
    net.set_attn_processor({name: cross(attn) if attn.is_cross_attention else own for name, attn in attns.items()})


def guided(
    scheduler: Any,
    inputs: Inputs,
    predict: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype,
    generator: torch.Generator | None = None,
) -> Step:
    """The loop body of diffusers' pipelines around ``predict(both halves, timestep)``.

    Args:
        dtype: of the networks. generator: of the fresh noise; the global one without it.
    """

    def step(latents: Tensor, i: int) -> Tensor:
        if scheduler.step_index != i:  # once per request, which takes less than a thousandth of its time
            scheduler.set_timesteps(inputs.steps, device=latents.device)
        t = scheduler.timesteps[i]
        x = scheduler.scale_model_input(torch.cat([latents.to(dtype)] * 2), t)
        unconditional, conditional = predict(x, t).chunk(2)
        noise = unconditional + inputs.guidance * (conditional - unconditional)
        return scheduler.step(noise.float(), t, latents, generator=generator, return_dict=False)[0]

    return step


def instantid(
    unet: UNet2DConditionModel,
    controls: Sequence[ControlNetModel],
    weights: Weights,
    scheduler: Any,
    inputs: InstantIDInputs,
    generator: torch.Generator | None = None,
) -> Step:
    """IP-Adapter attention, IdentityNet, canny ControlNet and LCM, plainly composed of diffusers' parts.

    In its favour: the adapter's tokens arrive projected, nothing is masked, and the LoRA is fused. diffusers gives
    IdentityNet the text as well.
    """
    net: Any = unet
    projections, tokens = iter(weights), inputs.tokens.shape[1]
    set_processors(net, AttnProcessor2_0(), lambda attn: adapter(attn, next(projections), tokens, inputs.strength))
    net.encoder_hid_proj = nn.Identity()
    net.register_to_config(encoder_hid_dim_type="ip_image_proj")
    nets: Any = MultiControlNetModel(list(controls))
    images, scales = list(inputs.images), list(inputs.scales)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        down, mid = nets(x, t, inputs.text, images, scales, added_cond_kwargs=inputs.added, return_dict=False)
        return net(
            x,
            t,
            encoder_hidden_states=inputs.text,
            added_cond_kwargs={**inputs.added, "image_embeds": [inputs.tokens]},
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]

    return guided(scheduler, inputs, predict, net.dtype, generator)


def adapter(attn: Attention, weights: Sequence[nn.Parameter], tokens: int, scale: float) -> IPAdapterAttnProcessor2_0:
    """diffusers' own processor with these projections."""
    with torch.device("meta"):
        made = IPAdapterAttnProcessor2_0(attn.inner_dim, attn.cross_attention_dim, num_tokens=(tokens,), scale=scale)
    made.to_k_ip[0].weight, made.to_v_ip[0].weight = weights
    return made


class UsualSelfAttention(AttnProcessor2_0):
    """diffusers' own, but it names the cross attentions' arguments: diffusers warns about any that are not named."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        attn: Attention,
        hidden_states: Tensor,
        identity: Tensor | None = None,
        identity_scale: float = 1.0,
        **_: object,
    ) -> Tensor:
        return super().__call__(attn, hidden_states)


class UsualIdentityAttention(nn.Module):
    """PuLID's cross attention computed as it is written down (pulid.md §A10), all of it in every call.

    Args:
        weights: of the projections to key and value; the identity must come in their precision.
    """

    def __init__(self, weights: Sequence[nn.Parameter], mode: IdentityMode) -> None:
        super().__init__()
        self.id_to_k, self.id_to_v = (projection(weight) for weight in weights)
        self.mode = mode

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        identity: Tensor,
        identity_scale: float,
        **_: object,
    ) -> Tensor:
        rows = hidden_states.shape[0]

        def heads(x: Tensor) -> Tensor:
            return x.view(rows, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)

        def attend(key: Tensor, value: Tensor) -> Tensor:
            out = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.0)
            return out.transpose(1, 2).reshape(rows, -1, attn.inner_dim).to(torch.float32)

        query = heads(attn.to_q(hidden_states))
        text = attend(heads(attn.to_k(encoder_hidden_states)), heads(attn.to_v(encoder_hidden_states)))
        zeros = torch.zeros((rows, self.mode.pads, identity.shape[-1]), dtype=identity.dtype, device=identity.device)
        key = heads(self.id_to_k(torch.cat([identity, zeros], 1)).to(query.dtype))
        value = heads(self.id_to_v(torch.cat([identity, zeros], 1)).to(query.dtype))
        face = attend(key, value)
        parallel = (text * face).sum(-2, keepdim=True) / (text * text).sum(-2, keepdim=True) * text
        if self.mode.projection == "soft":
            mass = (query @ key.transpose(-2, -1)).softmax(-1).mean(1)[:, :, :FIRST_TOKENS].sum(-1, keepdim=True)
            parallel = (1 - mass) * parallel
        out = (text + identity_scale * (face - parallel)).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](out))


def projection(weight: nn.Parameter) -> nn.Linear:
    """A linear layer without bias around this weight."""
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = weight
    return layer


def pulid(unet: UNet2DConditionModel, weights: Weights, scheduler: Any, inputs: Inputs, mode: str) -> Step:
    """SDXL-Lightning with PuLID's attention and DPM-Solver++, shaped like upstream's loop.

    The identity is projected in the weights' precision: float32 upstream.
    """
    net: Any = unet
    kept = [list(pair) for pair in weights]
    projections = iter(kept)
    set_processors(net, UsualSelfAttention(), lambda attn: UsualIdentityAttention(next(projections), MODES[mode]))
    identity = {"identity": inputs.tokens.to(kept[0][0].dtype), "identity_scale": inputs.strength}

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return net(
            x,
            t,
            encoder_hidden_states=inputs.text,
            cross_attention_kwargs=identity,
            added_cond_kwargs=inputs.added,
            return_dict=False,
        )[0]

    return guided(scheduler, inputs, predict, net.dtype)
