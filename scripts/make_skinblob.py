"""Makes tests/data/det_skinblob.onnx: SCRFD's signature, blobs of light skin for faces, and no trained weights.

    python -m scripts.make_skinblob

So that tests run insightface's own detection code although its weights may not be shipped (dependencies.md §5). For
each anchor the moments of the skin around it say where a blob's centre is, how large, how round and how full; a face is
a full, roundish blob that ends inside the window. It also takes cats for faces: a test's tool, never a product's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

TARGET = Path(__file__).parents[1] / "tests" / "data" / "det_skinblob.onnx"

CELL = 8
"""Side in pixels of a cell of the skin map."""

WINDOWS = {8: 40, 16: 80, 32: 168}
"""Of each stride, the radius in pixels within which its anchors look for skin."""

ANCHORS = 2
"""Per position, as SCRFD has; the second never finds anything."""

YCC = (
    ((0.299, 0.587, 0.114), 0.0),
    ((-0.168736, -0.331264, 0.5), 128.0),
    ((0.5, -0.418688, -0.081312), 128.0),
)
"""JPEG's Y, Cb, Cr: weights of R, G, B and offset."""

SKIN = (("cr", 141, 0.8), ("cr", 160, -0.8), ("cb", 100, 0.8), ("cb", 118, -0.8), ("y", 115, 0.15))
"""Channel, threshold and steepness per unit: skin lies above where it is positive and below where it is negative."""

EXTENT = 1.9
"""Half an ellipse's side in standard deviations; 2 is exact, a little less fits faces better."""

KEYPOINTS = ((-0.50, -0.46), (0.50, -0.46), (0.0, -0.06), (-0.40, 0.34), (0.40, 0.34))
"""Eyes, nose, mouth corners from the box's centre, in halves of its sides."""


class Graph:
    """Collects an ONNX graph; every method adds a node and returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str | float, name: str = "", **attributes: Any) -> str:
        """One operator; numbers become float32 constants."""
        output = name or f"{kind.lower()}_{len(self.nodes)}"
        taken = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(kind, taken, [output], **attributes))
        return output

    def constant(self, value: ArrayLike, kind: type[np.generic] = np.float32) -> str:
        """A constant; equal scalars share one."""
        array = np.asarray(value, kind)
        name = f"{array.dtype.name}_{array.item()!r}" if array.ndim == 0 else f"constant_{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def split(self, x: str, parts: int) -> list[str]:
        """The channels one by one."""
        names = [f"{x}_{part}" for part in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], names, axis=1))
        return names

    def threshold(self, x: str, at: float, steepness: float) -> str:
        """0..1, softly; 1 above `at`, below it when the steepness is negative."""
        return self.op("Sigmoid", self.op("Mul", self.op("Sub", x, float(at)), float(steepness)))

    def product(self, factors: Sequence[str]) -> str:
        """All of them multiplied."""
        first, *rest = factors
        for factor in rest:
            first = self.op("Mul", first, factor)
        return first


def make_model() -> onnx.ModelProto:
    """ONNX: input.1 [1, 3, H, W] float32, RGB as (x - 127.5) / 128, to SCRFD's nine outputs.

    They are score, bbox and kps, each for the strides 8, 16 and 32, with rows position by position: the score 0..1,
    distances of the box's sides and offsets of the keypoints from the anchor, in units of the stride.
    """
    graph = Graph()
    skin = skin_map(graph, "input.1")
    found = [level(graph, skin, stride, radius) for stride, radius in WINDOWS.items()]
    outputs = []
    for kind, columns in enumerate((1, 4, 10)):
        for stride, parts in zip(WINDOWS, found, strict=True):
            name = rows(graph, parts[kind], columns, f"{('score', 'bbox', 'kps')[kind]}_{stride}")
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"n{stride}", columns]))
    picture = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "H", "W"])
    built = helper.make_graph(graph.nodes, "skinblob", [picture], outputs, list(graph.constants.values()))
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    model.producer_name = "scripts/make_skinblob.py"
    onnx.checker.check_model(model)
    return model


def skin_map(graph: Graph, picture: str) -> str:
    """(1, 1, H / 8, W / 8): how much of each cell has the colour of light skin."""
    rgb = graph.op("Add", graph.op("Mul", picture, 128.0), 127.5)
    weights = graph.constant(np.reshape([weight for weight, _ in YCC], (3, 3, 1, 1)))
    channels = graph.split(graph.op("Conv", rgb, weights, graph.constant([offset for _, offset in YCC])), 3)
    ycc: dict[str, str] = dict(zip(("y", "cb", "cr"), channels, strict=True))
    skin = graph.product([graph.threshold(ycc[channel], at, steepness) for channel, at, steepness in SKIN])
    return graph.op("AveragePool", skin, kernel_shape=[CELL, CELL], strides=[CELL, CELL])


def level(graph: Graph, skin: str, stride: int, radius: int) -> tuple[list[str], list[str], list[str]]:
    """Score, box and keypoints of one stride: channels of (1, 1, H / stride, W / stride), once per anchor."""
    kernels, inner = window(radius)
    pads = [kernels.shape[-1] // 2] * 4
    moments = graph.op("Conv", skin, graph.constant(kernels), pads=pads, strides=[stride // CELL] * 2)
    mass, x, y, xx, yy, core = graph.split(moments, 6)
    mass = graph.op("Add", mass, 1e-3)
    x, y = graph.op("Div", x, mass), graph.op("Div", y, mass)
    wide, high = (deviation(graph, second, first, mass) for second, first in ((xx, x), (yy, y)))
    aspect = graph.op("Div", high, graph.op("Add", wide, 1e-3))
    distance = graph.op("Add", graph.op("Mul", x, x), graph.op("Mul", y, y))
    score = graph.product(
        [
            graph.threshold(graph.op("Div", core, inner), 0.36, 18),  # the middle is skin
            graph.threshold(graph.op("Div", core, mass), 0.42, 22),  # and most of the skin is in the middle
            graph.op("Exp", graph.op("Div", distance, -float(stride**2))),  # of which this anchor is the nearest
            graph.threshold(aspect, 0.75, 20),
            graph.threshold(aspect, 1.9, -20),
        ]
    )
    return [score, graph.op("Mul", score, 0.0)], *geometry(graph, (x, y), (wide, high), stride)


def window(radius: int) -> tuple[NDArray[np.float64], float]:
    """Kernels (6, 1, k, k) over cells: mass, moments x y xx yy in a disc, mass in its core; the core's sum."""
    cells = radius // CELL
    offsets = np.arange(-cells, cells + 1) * float(CELL)
    x, y = np.meshgrid(offsets, offsets)
    disc, core = np.hypot(x, y) <= radius, np.hypot(x, y) <= 0.55 * radius
    kernels = np.stack([disc, disc * x, disc * y, disc * x * x, disc * y * y, core]).astype(np.float64)
    return kernels[:, None], float(core.sum())


def deviation(graph: Graph, second: str, mean: str, mass: str) -> str:
    """Standard deviation in pixels, from the second moment and the mean."""
    variance = graph.op("Sub", graph.op("Div", second, mass), graph.op("Mul", mean, mean))
    return graph.op("Sqrt", graph.op("Relu", graph.op("Add", variance, 1e-3)))


def geometry(graph: Graph, mean: tuple[str, str], sigma: tuple[str, str], stride: int) -> tuple[list[str], list[str]]:
    """Box and keypoints around the blob, from the anchor, in strides."""
    middle = (CELL - 1) / 2  # a cell's centre lies there, an anchor at its corner
    x, y = (graph.op("Add", one, middle) for one in mean)
    wide, high = (graph.op("Mul", one, EXTENT) for one in sigma)
    sides = [graph.op("Sub", wide, x), graph.op("Sub", high, y), graph.op("Add", wide, x), graph.op("Add", high, y)]
    points = [
        graph.op("Add", centre, graph.op("Mul", half, float(part)))
        for keypoint in KEYPOINTS
        for centre, half, part in zip((x, y), (wide, high), keypoint, strict=True)
    ]
    box, kps = ([graph.op("Div", one, float(stride)) for one in parts] for parts in (sides, points))
    return box * ANCHORS, kps * ANCHORS


def rows(graph: Graph, channels: Sequence[str], columns: int, name: str) -> str:
    """(positions x anchors, columns), position by position."""
    last = graph.op("Transpose", graph.op("Concat", *channels, axis=1), perm=[0, 2, 3, 1])
    return graph.op("Reshape", last, graph.constant([-1, columns], np.int64), name=name)


if __name__ == "__main__":
    TARGET.write_bytes(make_model().SerializeToString(deterministic=True))
    print(f"wrote {TARGET} ({TARGET.stat().st_size} bytes)")
