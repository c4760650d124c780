"""Makes weights/tiny/antelopev2/glintr100.onnx: a stand-in with ArcFace's signature that recognises nobody.

The real glintr100 may not be shipped (LICENCES.md). This one maps the colours of a 14 x 14 thumbnail through a fixed
random matrix: the same face gives the same vector, another face another one, with a norm in ArcFace's raw range
(15 to 25).
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TARGET = Path(__file__).parents[1] / "weights" / "tiny" / "antelopev2" / "glintr100.onnx"
THUMBNAIL, CHANNELS, EMBEDDING = 14, 3, 512
FEATURES = CHANNELS * THUMBNAIL * THUMBNAIL
SEED, NORM, BIAS_NORM = 20240122, 20.0, 5.0


def make_model() -> onnx.ModelProto:
    """ONNX: input [N, 3, 112, 112] float32, RGB as (x - 127.5) / 127.5, to [N, 512] float32.

    insightface reads the first eight node names: one that starts with "Sub" and one with "Mul" would switch its own
    normalisation off (dependencies.md §5), so no node here is named so.
    """
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["pool"], "Pool_0", kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pool"], ["flat"], "Flatten_1", axis=1),
        helper.make_node("ReduceMean", ["flat"], ["mean"], "Mean_2", axes=[1], keepdims=1),
        helper.make_node("Sub", ["flat", "mean"], ["centred"], "Centre_3"),
        helper.make_node("ReduceL2", ["centred"], ["length"], "Length_4", axes=[1], keepdims=1),
        helper.make_node("Add", ["length", "tiny"], ["divisor"], "Guard_5"),
        helper.make_node("Div", ["centred", "divisor"], ["unit"], "Unit_6"),
        helper.make_node("Cast", ["half_weight"], ["weight"], "Cast_7", to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["unit", "weight", "bias"], ["683"], "Gemm_8"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny glintr100",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["N", CHANNELS, 112, 112])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, ["N", EMBEDDING])],
        initializers(),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.producer_name = "scripts/make_tiny_arcface.py"
    onnx.checker.check_model(model)
    return model


def initializers() -> list[onnx.TensorProto]:
    """The random matrix (588, 512) as float16, which makes a unit vector about NORM long, and a bias."""
    draw = np.random.default_rng(SEED)
    weight = draw.standard_normal((FEATURES, EMBEDDING)) * NORM / np.sqrt(EMBEDDING)
    bias = draw.standard_normal(EMBEDDING) * BIAS_NORM / np.sqrt(EMBEDDING)
    return [
        numpy_helper.from_array(weight.astype(np.float16), "half_weight"),
        numpy_helper.from_array(bias.astype(np.float32), "bias"),
        numpy_helper.from_array(np.array(1e-6, np.float32), "tiny"),
    ]


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(make_model(), TARGET)
    print(f"wrote {TARGET} ({TARGET.stat().st_size} bytes)")
