"""Proves after set-up that the native packages load together, and that no second copy of one landed beside ours."""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version

MODULES = ("numpy", "torch", "onnxruntime", "cv2", "insightface", "diffusers", "transformers")
RIVALS = {
    "opencv-python": "both own the folder cv2/",
    "torchvision": "PyPI's build does not fit the CPU torch and breaks transformers",
}


def main(kind: str) -> int:
    problems = [f"cannot import {name}: {reason}" for name in MODULES if (reason := failure(name))]
    problems += [f"{name} is installed: {why}" for name, why in rivals_of(kind).items() if installed(name)]
    for problem in problems:
        print(f"setup: {problem}", file=sys.stderr)
    if problems:
        print(
            "setup: delete .venv and run `make setup` again; if it stays, open an issue with these lines.",
            file=sys.stderr,
        )
    return bool(problems)


def rivals_of(kind: str) -> dict[str, str]:
    """What must not be there beside the list of this kind, and why."""
    other = "onnxruntime" if kind.startswith("gpu") else "onnxruntime-gpu"
    return {**RIVALS, other: "both own the folder onnxruntime/"}


def failure(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a native package raises while loading is what the user must see
        return f"{type(error).__name__}: {error}"
    return ""


def installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
