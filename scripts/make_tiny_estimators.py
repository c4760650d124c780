"""Makes weights/tiny/{depth-anything-v2-small,dwpose}: stand-ins with the real files' signatures, without their skill.

    python -m scripts.make_tiny_estimators

The real ones may be downloaded but are too large to ship. Depth: transformers' own network with random weights. People:
an ONNX of YOLOX's signature that takes whatever differs from grey for one person. Pose: an ONNX of DWPose's signature
that sees the same upright person in every crop, moved a little by the crop's colours.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

ROOT = Path(__file__).parents[1] / "weights" / "tiny"
SEED = 20240614

DEPTH_CONFIG = {
    "architectures": ["DepthAnythingForDepthEstimation"],
    "model_type": "depth_anything",
    "backbone_config": {
        "model_type": "dinov2",
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "mlp_ratio": 2,
        "image_size": 98,
        "patch_size": 14,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "out_indices": [1, 2, 3, 4],
        "reshape_hidden_states": False,
    },
    "neck_hidden_sizes": [8, 12, 16, 24],
    "reassemble_hidden_size": 24,
    "reassemble_factors": [4, 2, 1, 0.5],
    "fusion_hidden_size": 12,
    "head_hidden_size": 8,
    "patch_size": 14,
}
"""Depth-Anything-V2-Small's own, smaller."""

PROCESSOR = {
    "image_processor_type": "DPTImageProcessor",
    "do_resize": True,
    "size": {"height": 182, "width": 182},
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_pad": False,
}
"""Depth-Anything-V2-Small's own, at 182 instead of 518 pixels."""

BODY = (
    *((0.50, 0.14), (0.53, 0.12), (0.47, 0.12), (0.57, 0.14), (0.43, 0.14)),  # nose, eyes, ears: left before right
    *((0.64, 0.28), (0.36, 0.28), (0.70, 0.42), (0.30, 0.42), (0.72, 0.55), (0.28, 0.55)),  # shoulders, elbows, wrists
    *((0.58, 0.55), (0.42, 0.55), (0.59, 0.74), (0.41, 0.74), (0.60, 0.91), (0.40, 0.91)),  # hips, knees, ankles
)
"""COCO's 17 keypoints of an upright person, in parts of the person's width and height."""

SHARE = 0.6
"""Of the crop that the person fills: its margins reach beyond the photo."""

KEYPOINTS, HEIGHT, WIDTH, SPLIT = 133, 384, 288, 2
SIDE, CELL, ROWS, CLASSES = 640, 32, 8400, 80


def make_depth() -> dict[str, bytes]:
    """The three files of the depth estimator by name; every tensor drawn in the order of its name."""
    config = DepthAnythingConfig.from_dict(DEPTH_CONFIG)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in DepthAnythingForDepthEstimation(config).state_dict().items()}
    draw = np.random.default_rng(SEED)
    tensors = {name: drawn(draw, name, tuple(shapes[name])) for name in sorted(shapes)}
    return {
        "config.json": json.dumps(DEPTH_CONFIG, indent=2).encode() + b"\n",
        "preprocessor_config.json": json.dumps(PROCESSOR, indent=2).encode() + b"\n",
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
    }


def drawn(draw: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float16]:
    """Random numbers that keep a signal's size: matrices by what flows into them, norms and scales around 1."""
    noise = draw.standard_normal(shape)
    if name.endswith(("norm1.weight", "norm2.weight", "layernorm.weight", "lambda1")):
        return (1 + 0.1 * noise).astype(np.float16)
    if len(shape) < 2:
        return (0.1 * noise).astype(np.float16)
    if name == "head.conv3.weight":
        noise = abs(noise)  # keeps the last ReLU open
    return (noise / math.sqrt(math.prod(shape[1:]))).astype(np.float16)


def make_people() -> onnx.ModelProto:
    """YOLOX's signature: images (1, 3, 640, 640) float32 BGR 0..255 to output (1, 8400, 85).

    The only row with a score holds the box around what differs from the border's grey, by its moments; nothing is
    found where nothing is brighter than that grey.
    """
    axis = np.arange(CELL / 2, SIDE, CELL, dtype=np.float32)
    constants: dict[str, ArrayLike] = {
        "grey": np.float32(114),
        "x": axis.reshape(1, 1, 1, -1),
        "y": axis.reshape(1, 1, -1, 1),
        "tiny": np.float32(1e-3),
        "stride": np.float32(8),
        "spread": np.float32(math.sqrt(12)),  # a uniform box's side in its standard deviations
        "zero": np.float32(0),
        "one": np.ones((1, 1, 1, 1), np.float32),
        "sure": np.float32(16),
        "others": np.zeros((1, 1, 1, CLASSES - 1), np.float32),
        "flat": np.array([1, 1, 5 + CLASSES], np.int64),
        "pads": np.array([0, 0, 0, 0, ROWS - 1, 0], np.int64),
    }
    nodes = [
        ("Sub", ["images", "grey"], "away", {}),
        ("Abs", ["away"], "differs", {}),
        ("AveragePool", ["differs"], "cells", {"kernel_shape": [CELL, CELL], "strides": [CELL, CELL]}),
        ("ReduceMean", ["cells"], "mass", {"axes": [1]}),
        ("ReduceSum", ["mass"], "sum", {}),
        ("Add", ["sum", "tiny"], "total", {}),
        *(node for name in "xy" for node in moments(name)),
        ("ReduceMax", ["away"], "brightest", {}),
        ("Div", ["brightest", "sure"], "excess", {}),
        ("Clip", ["excess", "zero", "most"], "score", {}),
        ("Concat", ["x_at", "y_at", "x_log", "y_log", "score", "one", "others"], "row", {"axis": 3}),
        ("Reshape", ["row", "flat"], "first", {}),
        ("Pad", ["first", "pads", "zero"], "output", {}),
    ]
    return model_of(
        "tiny yolox_l",
        nodes,
        constants | {"most": np.float32(1)},
        {"images": [1, 3, SIDE, SIDE]},
        {"output": [1, ROWS, 5 + CLASSES]},
    )


Node = tuple[str, list[str], str, dict[str, Any]]
"""Operator, inputs, output, attributes."""


def moments(axis: str) -> list[Node]:
    """Centre and side of the mass along one axis, as YOLOX codes them at its first anchor: c / 8 and log(side / 8)."""
    return [
        ("Mul", ["mass", axis], f"{axis}_mass", {}),
        ("ReduceSum", [f"{axis}_mass"], f"{axis}_sum", {}),
        ("Div", [f"{axis}_sum", "total"], f"{axis}_mean", {}),
        ("Sub", [axis, f"{axis}_mean"], f"{axis}_off", {}),
        ("Mul", [f"{axis}_off", f"{axis}_off"], f"{axis}_square", {}),
        ("Mul", ["mass", f"{axis}_square"], f"{axis}_squares", {}),
        ("ReduceSum", [f"{axis}_squares"], f"{axis}_inertia", {}),
        ("Div", [f"{axis}_inertia", "total"], f"{axis}_variance", {}),
        ("Sqrt", [f"{axis}_variance"], f"{axis}_sigma", {}),
        ("Mul", [f"{axis}_sigma", "spread"], f"{axis}_side", {}),
        ("Add", [f"{axis}_side", "stride"], f"{axis}_wide", {}),
        ("Div", [f"{axis}_wide", "stride"], f"{axis}_ratio", {}),
        ("Log", [f"{axis}_ratio"], f"{axis}_log", {}),
        ("Div", [f"{axis}_mean", "stride"], f"{axis}_at", {}),
    ]


def make_pose() -> onnx.ModelProto:
    """DWPose's signature: input (N, 3, 384, 288) float32, normalised RGB, to simcc_x (N, 133, 576) and simcc_y.

    Every keypoint is a narrow bell at its place in BODY, moved a little by the crop's mean colours; those beyond the
    body lie in the middle.
    """
    draw = np.random.default_rng(SEED)
    places = np.full((KEYPOINTS, 2), 0.5, np.float32)
    places[: len(BODY)] += (np.array(BODY) - 0.5) * SHARE
    constants: dict[str, ArrayLike] = {"narrow": np.float32(-0.05)}
    nodes: list[Node] = [("ReduceMean", ["input"], "colours", {"axes": [2, 3], "keepdims": 0})]
    for axis, name, bins in ((0, "x", WIDTH * SPLIT), (1, "y", HEIGHT * SPLIT)):
        constants |= {
            f"{name}_weight": (draw.standard_normal((3, KEYPOINTS)) * bins * 0.005).astype(np.float32),
            f"{name}_place": places[:, axis] * np.float32(bins),
            f"{name}_bins": np.arange(bins, dtype=np.float32),
            f"{name}_axis": np.array([2], np.int64),
        }
        nodes += [
            ("Gemm", ["colours", f"{name}_weight", f"{name}_place"], f"{name}_points", {}),
            ("Unsqueeze", [f"{name}_points", f"{name}_axis"], f"{name}_column", {}),
            ("Sub", [f"{name}_bins", f"{name}_column"], f"{name}_off", {}),
            ("Mul", [f"{name}_off", f"{name}_off"], f"{name}_square", {}),
            ("Mul", [f"{name}_square", "narrow"], f"{name}_exponent", {}),
            ("Exp", [f"{name}_exponent"], f"simcc_{name}", {}),
        ]
    outputs: dict[str, list[int | str]] = {
        "simcc_x": ["N", "MatMulsimcc_x_dim_1", WIDTH * SPLIT],  # the real exporter's name for 133
        "simcc_y": ["N", "MatMulsimcc_x_dim_1", HEIGHT * SPLIT],
    }
    return model_of("tiny dw-ll_ucoco_384", nodes, constants, {"input": ["N", 3, HEIGHT, WIDTH]}, outputs)


def model_of(
    name: str,
    nodes: list[Node],
    constants: Mapping[str, ArrayLike],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
) -> onnx.ModelProto:
    """A checked ONNX of float32 inputs and outputs with these shapes."""
    graph = helper.make_graph(
        [helper.make_node(op, takes, [gives], **attributes) for op, takes, gives, attributes in nodes],
        name,
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.producer_name = "scripts/make_tiny_estimators.py"
    onnx.checker.check_model(model)
    return model


def make_all() -> dict[str, bytes]:
    """Every file by its place below the weights folder."""
    files = {f"depth-anything-v2-small/{name}": content for name, content in make_depth().items()}
    files["dwpose/yolox_l.onnx"] = make_people().SerializeToString(deterministic=True)
    files["dwpose/dw-ll_ucoco_384.onnx"] = make_pose().SerializeToString(deterministic=True)
    return files


if __name__ == "__main__":
    for target, content in make_all().items():
        (ROOT / target).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / target).write_bytes(content)
        print(f"wrote {ROOT / target} ({len(content)} bytes)")
