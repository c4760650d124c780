"""An SDXL base written as one file under Stability's original names, the other way round than the loader reads it."""

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
VAE = {
    "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
}
LAYERS = 2
"""Residual blocks per resolution on the way down; one more on the way up."""


def write_single_file(base: Path, target: Path) -> None:
    """All four networks of a diffusers folder into one file."""
    unet, vae = (load_file(base / name / "diffusion_pytorch_model.safetensors") for name in ("unet", "vae"))
    first, second = (load_file(base / name / "model.safetensors") for name in ("text_encoder", "text_encoder_2"))
    tensors = {f"model.diffusion_model.{unet_name(key)}": value for key, value in unet.items()}
    tensors |= {f"first_stage_model.{vae_name(key)}": vae_value(key, value) for key, value in vae.items()}
    tensors |= {f"conditioner.embedders.0.transformer.{key}": value for key, value in first.items()}
    tensors["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    tensors |= {f"conditioner.embedders.1.model.{key}": value for key, value in open_clip(second).items()}
    tensors["denoiser.sigmas"] = torch.zeros(1000)
    save_file({key: value.contiguous() for key, value in tensors.items()}, target)


def unet_name(key: str) -> str:
    for ours, theirs in ENDS.items():
        if key.startswith(f"{ours}."):
            return key.replace(ours, theirs, 1)
    side, rest = key.split("_", 1) if key.startswith("mid") else key.split("_blocks.", 1)
    if side == "mid":
        _, kind, number, inner = rest.split(".", 3)
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{inside(kind, inner)}"
    level, kind, number, inner = rest.split(".", 3)
    if side == "down":
        block = (LAYERS + 1) * int(level) + int(number) + 1
        if kind == "downsamplers":
            return f"input_blocks.{block + LAYERS}.0.{inner.replace('conv', 'op')}"
        return f"input_blocks.{block}.{int(kind == 'attentions')}.{inside(kind, inner)}"
    block = (LAYERS + 1) * int(level) + int(number)
    if kind == "upsamplers":
        return f"output_blocks.{block + LAYERS}.2.{inner}"
    return f"output_blocks.{block}.{int(kind == 'attentions')}.{inside(kind, inner)}"


def inside(kind: str, inner: str) -> str:
    name, _, end = inner.rpartition(".")
    return f"{RESNET[name]}.{end}" if kind == "resnets" else inner


def vae_name(key: str) -> str:
    for ours, theirs in VAE.items():
        key = re.sub(rf"(?<![a-z_]){re.escape(ours)}(?![a-z_0-9])", theirs, key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)


def vae_value(key: str, value: Tensor) -> Tensor:
    return value[:, :, None, None] if ".attentions." in key and value.ndim == 2 else value


def open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {"text_projection": state["text_projection.weight"].T, "logit_scale": torch.zeros(())}
    for key, value in state.items():
        name = key.removeprefix("text_model.")
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if found := re.fullmatch(r"(.*)self_attn\.q_proj\.(weight|bias)", name):
            three = [state[key.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            renamed[f"{found[1]}attn.in_proj_{found[2]}"] = torch.cat(three)
        elif "self_attn" not in name and not name.startswith("text_projection"):
            renamed[name] = value
    return renamed
