"""Program: `python -m pipelines.probe` prints as JSON what torch and onnxruntime can really use on this machine."""

import json
import platform
import re
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from onnx import TensorProto, helper

DRIVER = Path("/proc/driver/nvidia/version")


def main() -> None:
    """Print the report. It is data, not judgement: who asked decides what it means."""
    print(json.dumps(report(), indent=2))


def report() -> dict[str, Any]:
    """What this machine offers.

    Returns:
        ``architectures``: what torch's kernels are built for, ``sm_90``, none without a GPU; ``gpus``: those that torch
        sees, memory in bytes; ``execution_providers``: those that onnxruntime really runs
        on, best first; ``compiled_providers``: those its wheel was built with, which says nothing about the machine.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "architectures": torch.cuda.get_arch_list(),
        "driver": driver(),
        "gpus": [gpu(index) for index in range(torch.cuda.device_count())],
        "onnxruntime": onnxruntime.__version__,
        "compiled_providers": onnxruntime.get_available_providers(),
        "execution_providers": [name for name in onnxruntime.get_available_providers() if really_runs(name)],
    }


def driver() -> str | None:
    """The version of the loaded NVIDIA driver, ``"580.65.06"``; None without one."""
    try:
        found = re.search(r"\d+(\.\d+)+", DRIVER.read_text())
    except OSError:
        return None
    return found[0] if found else None


def gpu(index: int) -> dict[str, Any]:
    """One GPU as torch sees it; `uuid` is what CUDA_VISIBLE_DEVICES takes."""
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return {
        "index": index,
        "name": properties.name,
        "uuid": f"GPU-{properties.uuid}",
        "capability": f"{properties.major}.{properties.minor}",
        "memory": total,
        "memory_free": free,
    }


def really_runs(provider: str) -> bool:
    """Whether a session made for this provider runs on it: onnxruntime falls back to the CPU without an error."""
    if provider.startswith("CUDA"):
        onnxruntime.preload_dlls()  # CUDA's libraries are in torch's wheels, where the loader does not look
    try:
        session = onnxruntime.InferenceSession(tiny_model(), quiet(), providers=[provider])
    except Exception:  # any refusal is the answer
        return False
    return session.get_providers()[0] == provider


def quiet() -> onnxruntime.SessionOptions:
    """Options that keep a missing driver's complaints off standard error."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def tiny_model() -> bytes:
    """A model of one node: y = x + x on one float."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "tiny", value[:1], value[1:])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


if __name__ == "__main__":
    main()
