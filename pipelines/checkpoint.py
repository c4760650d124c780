"""Checkpoint files: their tensors, or on the meta device only the names and shapes; and whether these fit a network."""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pipelines.errors import LoadError
from pipelines.profile import Profile

State = dict[str, Tensor]
"""Tensors by name."""

Change = Callable[[str, Tensor], Tensor]
"""What becomes of a tensor, given its name."""

Built = TypeVar("Built")

PICKLES = (".bin", ".pt", ".pth")
SUFFIXES = (".safetensors", *PICKLES)
"""Of a checkpoint, in the order in which they are looked for."""

WRAPPERS = ("state_dict", "model", "module")
"""Training programs put the tensors of a pickle below one of these (open_clip's `load_state_dict`)."""

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64}
"""What can be read, by safetensors' names; integers are buffers."""

MOST_SHOWN = 4


def rehearsed(build: Callable[[Profile], Built], profile: Profile) -> Built:
    """`build(profile)`, but first the same on the meta device, so that every file is found right before one is read.

    Raises:
        LoadError: naming a file that is missing, or its tensors that do not fit, with nothing allocated.
    """
    rehearsal = build(replace(profile, device="meta"))
    return rehearsal if profile.device == "meta" else build(profile)


def require(path: Path) -> Path:
    """`path` if it exists, else LoadError naming it."""
    if not path.exists():
        raise LoadError(f"{path} is missing. `veraicon weights pull` gets it, and `veraicon weights list` names it")
    return path


def require_prepared(path: Path) -> Path:
    """`path` if it exists, else LoadError naming it."""
    if not path.exists():
        raise LoadError(f"{path} is missing. `veraicon weights prepare` makes it")
    return path


def load_state(stem: Path, device: str = "cpu", *, prepared: bool = False) -> tuple[dict[str, Any], Path]:
    """What `read_tensors` reads from `state_file(stem)`, and that file; if `prepared`, never from a pickle."""
    file = require_prepared(stem.with_name(f"{stem.name}.safetensors")) if prepared else state_file(stem)
    return read_tensors(file, device), file


def state_file(stem: Path) -> Path:
    """The file `stem` with the first of SUFFIXES that exists. Raises LoadError when none does."""
    for file in (stem.with_name(stem.name + suffix) for suffix in SUFFIXES):
        if file.exists():
            return file
    raise LoadError(f"{stem}.* is missing. `veraicon weights pull` gets it, and `veraicon weights list` names it")


def read_tensors(file: Path, device: str = "cpu") -> dict[str, Any]:
    """All tensors of one file, on the CPU; on the meta device only their names, shapes and dtypes, reading no data.

    Pickles are read with weights_only, which runs no code in them, and keep their nesting.

    Raises:
        LoadError: the file is missing, is cut short, is something else, or holds numbers of a kind that we cannot use.
    """
    require(file)
    try:
        if file.suffix != ".safetensors":
            return _read_pickle(file, device)
        return _read_header(file) if device == "meta" else load_file(file)
    except LoadError:
        raise
    except pickle.UnpicklingError as error:  # torch's own text advises to read it unsafely
        raise LoadError(
            f"{file} was not read: it is not a PyTorch file, or holds more than tensors and could run code. "
            "`veraicon weights verify --deep --repair` downloads it again"
        ) from error
    except Exception as error:  # torch and safetensors raise a dozen kinds; the file's name is what helps
        raise LoadError(f"{file} cannot be read: {error}. Download it again") from error


def part(state: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors below `prefix`, without it."""
    return {key.removeprefix(f"{prefix}."): value for key, value in state.items() if key.split(".")[0] == prefix}


def keep(_: str, tensor: Tensor) -> Tensor:
    """The tensor as it is."""
    return tensor


def sizes_of(state: Mapping[str, Tensor], file: Path, key: str, dims: int) -> torch.Size:
    """The shape of a tensor that decides a network's size. Raises LoadError when it is not there or has other dims."""
    if key not in state:
        raise LoadError(f"{file} is another checkpoint than expected: {key} is missing there")
    if state[key].ndim != dims:
        raise LoadError(
            f"{file} is another checkpoint than expected: {key} is {list(state[key].shape)} there, "
            f"and has {dims} dimensions here"
        )
    return state[key].shape


def assign_state(
    net: nn.Module, state: Mapping[str, Tensor], file: Path, prefix: str = "", change: Change = keep
) -> None:
    """Strict load that takes the tensors as they are, on whichever device they are.

    Args:
        prefix: what the file's names have before the network's, for the message.
        change: what becomes of a tensor whose shape is right, given its name.

    Raises:
        LoadError: with what is misshapen, missing and unexpected in the file.
    """
    expected = {key: tensor.shape for key, tensor in net.state_dict().items()}
    found = {key: tensor.shape for key, tensor in state.items()}
    check_fit(expected, found, file, type(net).__name__, prefix)
    net.load_state_dict({key: change(key, tensor) for key, tensor in state.items()}, strict=True, assign=True)


def check_fit(
    expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size], file: Path, net: str, prefix: str = ""
) -> None:
    """Raises LoadError naming the file, the first names that differ, both shapes, and how many more differ."""
    differences = [
        *(f"{prefix}{k} is {list(found[k])} there and {list(expected[k])} here" for k in _misshapen(expected, found)),
        *(f"{prefix}{key} is missing there" for key in expected if key not in found),
    ]
    unexpected = [f"{prefix}{key} is unexpected" for key in found if key not in expected]
    if differences or unexpected:
        shown = [*differences[: MOST_SHOWN - 1], *unexpected[:1]]  # a name that changed is missing and unexpected
        more = len(differences) + len(unexpected) - len(shown)
        rest = f" (and {more} more)" if more else ""
        raise LoadError(f"{file} does not fit {net}: {'; '.join(shown)}{rest}")


def _misshapen(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> list[str]:
    return [key for key, shape in expected.items() if key in found and found[key] != shape]


def _can_map(file: Path, device: str) -> bool:
    """Mapping keeps torch from reading the data; files older than torch 1.6 cannot be mapped."""
    return device == "meta" and zipfile.is_zipfile(file)


def _read_header(file: Path) -> State:
    """Empty tensors on the meta device."""
    with safe_open(file, "pt") as opened:
        slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118  it is no mapping
        return {
            key: torch.empty(one.get_shape(), dtype=_dtype(file, key, one.get_dtype()), device="meta")
            for key, one in slices.items()
        }


def _dtype(file: Path, key: str, name: str) -> torch.dtype:
    return DTYPES[name] if name in DTYPES else _refuse_dtype(file, key, name)


def _refuse_dtype(file: Path, key: str, name: str) -> NoReturn:
    raise LoadError(f"{file} holds {key} as {name}; float16, bfloat16 and float32 can be read. Convert it first")


def _read_pickle(file: Path, device: str) -> dict[str, Any]:
    state = torch.load(file, map_location=device, weights_only=True, mmap=_can_map(file, device))
    state = next((state[name] for name in WRAPPERS if isinstance(state.get(name), Mapping)), state)
    return _tensors(state, file)


def _tensors(state: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Without what a training program left beside them; every dtype is one that we can use."""
    nested = {key: _tensors(value, file) for key, value in state.items() if isinstance(value, Mapping)}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if strange := [key for key, value in tensors.items() if value.dtype not in DTYPES.values()]:
        _refuse_dtype(file, strange[0], str(tensors[strange[0]].dtype))
    return nested | tensors
