"""ONNX files opened, through insightface or as they are, on exactly the device that was asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipelines.errors import LoadError

if TYPE_CHECKING:  # a machine without onnxruntime and insightface can do everything but look at photos
    import onnxruntime

Model = TypeVar("Model", bound=Any)

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
FRESH_INSTALL = "delete .venv and run scripts/setup.sh gpu, which installs onnxruntime-gpu[cuda,cudnn]"


def open_model(path: Path, kind: type[Model], device: str) -> Model:
    """Open one ONNX file as insightface's `kind`, never downloading.

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        LoadError: the file is missing, is no ONNX model of that kind, or `device` cannot be had.
    """
    from insightface.model_zoo import get_model  # noqa: PLC0415  see above

    require_file(path)
    provider = provider_of(device)
    options = {"device_id": device.partition(":")[2] or "0"} if provider == CUDA else {}
    try:
        model: Any = get_model(str(path), providers=[provider], provider_options=[options])
    except Exception as error:  # onnxruntime raises a dozen unrelated types for a file that it cannot read
        raise LoadError(f"{path} cannot be opened as an ONNX model; download it again. onnxruntime: {error}") from error
    if not isinstance(model, kind):
        raise LoadError(f"{path} is not a {kind.__name__} model: its inputs and outputs differ. Download it again.")
    require_provider(path, model.session, provider)
    return model


def open_session(path: Path, device: str) -> "onnxruntime.InferenceSession":
    """Open one ONNX file as it is. Raises LoadError: it is missing or no ONNX model, or `device` cannot be had."""
    import onnxruntime  # noqa: PLC0415  see above

    require_file(path)
    provider = provider_of(device)
    options = {"device_id": device.partition(":")[2] or "0"} if provider == CUDA else {}
    try:
        session = onnxruntime.InferenceSession(path, providers=[provider], provider_options=[options])
    except Exception as error:  # onnxruntime raises a dozen unrelated types for a file that it cannot read
        raise LoadError(f"{path} cannot be opened as an ONNX model; download it again. onnxruntime: {error}") from error
    require_provider(path, session, provider)
    return session


def try_picture(session: Any, path: Path) -> tuple[tuple[int, int], list[tuple[int, ...]]]:
    """Give a black picture (1, 3, H, W) to a session. Raises LoadError when it takes something else.

    Exporters leave names in place of sizes, so that only an answer tells what a model gives.

    Returns:
        (width, height) that the model takes, and the shapes of its answers.
    """
    takes = [one.shape for one in session.get_inputs()]
    if len(takes) != 1 or len(takes[0]) != 4 or not all(isinstance(side, int) for side in takes[0][2:]):
        raise LoadError(f"{path} does not take one picture of one size, but {takes}. Download it again.")
    height, width = takes[0][2:]
    black = np.zeros((1, 3, height, width), np.float32)
    try:
        answers = session.run(None, {session.get_inputs()[0].name: black})
    except Exception as error:  # as above
        raise LoadError(f"{path} takes no pictures; download it again. onnxruntime: {error}") from error
    return (width, height), [np.shape(answer) for answer in answers]


def require_file(path: Path) -> None:
    """Raises LoadError naming `path` when it is not there, and where it hides when a zip nested its own folder."""
    if path.is_file():
        return
    nested = path.parent / path.parent.name / path.name
    hint = f"; it lies one folder too deep, in {nested.parent}: move it up" if nested.is_file() else ""
    raise LoadError(f"{path} is missing{hint}. `veraicon weights pull` gets it.")


def provider_of(device: str) -> str:
    """onnxruntime's name for `device`. Raises LoadError when it is unknown or this onnxruntime was built without it."""
    import onnxruntime  # noqa: PLC0415  see above

    if device == "cpu":
        return CPU
    if device.partition(":")[0] != "cuda":
        raise LoadError(f"device {device} is unknown to the face models: use cpu, cuda or cuda:N")
    if CUDA not in onnxruntime.get_available_providers():
        raise LoadError(f"device {device} was asked for, but this onnxruntime runs on CPUs only: {FRESH_INSTALL}")
    onnxruntime.preload_dlls()  # torch alone does not bring libcurand (dependencies.md §0.4)
    return CUDA


def require_provider(path: Path, session: Any, provider: str) -> None:
    """Raises LoadError when an onnxruntime session silently fell back to another provider (dependencies.md §0.5)."""
    if (active := session.get_providers()[0]) != provider:
        raise LoadError(
            f"{path.name} was to run on {provider}, but onnxruntime chose {active}: its CUDA libraries or the NVIDIA "
            f"driver did not load (`nvidia-smi` must work); {FRESH_INSTALL}"
        )
