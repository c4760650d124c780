"""The denoising steps that one has without this project: the yardsticks of `bench_host`.

Shaped like the loops of diffusers' own pipelines (StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline):
stock networks and attention, everything projected and embedded in every step, the scheduler's own `step`.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from pipelines.sdxl.attention import EXTREME_STYLE, FIDELITY, FIRST_TOKENS, IdentityMode
from pipelines.sdxl.denoise import Step
from scripts.full_depth import SIDE, control_net, unet

TEXT_TOKENS, INSTANTID_TOKENS, PULID_TOKENS = 77, 16, 10
MODES = {"fidelity": FIDELITY, "extreme style": EXTREME_STYLE}


def set_processors(net: UNet2DConditionModel, own: Any, cross: Callable[[Attention], Any]) -> None:
    """Give every self attention the processor `own`, and every cross attention what `cross` makes of it."""
    attns: dict[str, Any] = {name: net.get_submodule(name.removesuffix(".processor")) for name in net.attn_processors}
    net.set_attn_processor({name: cross(attn) if attn.is_cross_attention else own for name, attn in attns.items()})


def guided(scheduler: Any, steps: int, scale: float, predict: Callable[[Tensor, Tensor], Tensor]) -> Step:
    """The loop body of diffusers' pipelines around ``predict(both halves, timestep)``."""

    def step(latents: Tensor, i: int) -> Tensor:
        if i == 0:
            scheduler.set_timesteps(steps)  # once per request; less than a thousandth of its time
        t = scheduler.timesteps[i]
        x = scheduler.scale_model_input(torch.cat([latents] * 2), t)
        unconditional, conditional = predict(x, t).chunk(2)
        noise = unconditional + scale * (conditional - unconditional)
        return scheduler.step(noise, t, latents, return_dict=False)[0]

    return step


def added_conditions(net: UNet2DConditionModel) -> dict[str, Any]:
    """SDXL's pooled text and picture size, two rows."""
    pooled = net.config["projection_class_embeddings_input_dim"] - 6 * net.config["addition_time_embed_dim"]
    return {"text_embeds": torch.randn(2, pooled), "time_ids": torch.full((2, 6), float(SIDE))}


def instantid(scheduler: Any, steps: int) -> Step:
    """IP-Adapter attention, IdentityNet, canny ControlNet and LCM, plainly composed of diffusers' parts.

    In its favour: the adapter's tokens arrive projected, nothing is masked, and the LoRA is fused.
    """
    net: Any = unet("instantid/base")
    width = net.config["cross_attention_dim"]
    set_processors(
        net,
        AttnProcessor2_0(),
        lambda attn: IPAdapterAttnProcessor2_0(attn.inner_dim, width, num_tokens=(INSTANTID_TOKENS,), scale=0.7),
    )
    net.encoder_hid_proj = nn.Identity()
    net.register_to_config(encoder_hid_dim_type="ip_image_proj")
    controls = MultiControlNetModel([control_net("ControlNetModel"), control_net("controlnet-canny")])
    text, faces = torch.randn(2, TEXT_TOKENS, width), torch.randn(2, INSTANTID_TOKENS, width)
    images = [torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 3, SIDE, SIDE)]
    conditions = added_conditions(net)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        down, mid = controls(x, t, text, images, [0.7, 0.4], added_cond_kwargs=conditions, return_dict=False)
        return net(
            x,
            t,
            encoder_hidden_states=text,
            added_cond_kwargs={**conditions, "image_embeds": [faces]},
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]

    return guided(scheduler, steps, 1.5, predict)


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
    """PuLID's cross attention computed as it is written down (pulid.md §A10), all of it in every call."""

    def __init__(self, attn: Attention, mode: IdentityMode) -> None:
        super().__init__()
        self.id_to_k = nn.Linear(attn.cross_attention_dim, attn.inner_dim, bias=False)
        self.id_to_v = nn.Linear(attn.cross_attention_dim, attn.inner_dim, bias=False)
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


def pulid(scheduler: Any, steps: int, mode: str) -> Step:
    """SDXL-Lightning with PuLID's attention and DPM-Solver++, shaped like upstream's loop."""
    net = unet("pulid/sdxl_base")
    set_processors(net, UsualSelfAttention(), lambda attn: UsualIdentityAttention(attn, MODES[mode]))
    width = net.config["cross_attention_dim"]
    text, identity = torch.randn(2, TEXT_TOKENS, width), torch.randn(2, PULID_TOKENS, width)
    conditions = added_conditions(net)

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return net(
            x,
            t,
            encoder_hidden_states=text,
            cross_attention_kwargs={"identity": identity, "identity_scale": 0.8},
            added_cond_kwargs=conditions,
            return_dict=False,
        )[0]

    return guided(scheduler, steps, 1.2, predict)
