"""How much PuLID's identity tokens change when the five landmarks are off by a few pixels of the photo.

`python -m scripts.landmark_noise [--draws N]` aligns the golden photos with disturbed landmarks and runs the real face
parser, EVA tower and IDEncoder on the tiny weights. The ArcFace embedding stays the recorded one.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pipelines.faces.align import align
from pipelines.profile import Profile
from pipelines.pulid.identity import encode_photos
from pipelines.pulid.load import load_networks
from pipelines.pulid.prepared import shrink
from pipelines.shelf import Shelf

ROOT = Path(__file__).parent.parent
CASES, WEIGHTS = ROOT / "tests/golden/pulid/cases", ROOT / "weights/tiny/pulid"
PIXELS = (1.0, 2.0, 4.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4, help="disturbed alignments per photo and size of noise")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    parts = load_networks(WEIGHTS, Profile(device="cpu", dtype="float32"), Shelf())
    nets = (parts["face_parser"], parts["eva"], parts["id_encoder"])
    print("| photo | " + " | ".join(f"{pixels:g} px" for pixels in PIXELS) + " |")
    print("|---" * (1 + len(PIXELS)) + "|")
    with torch.inference_mode():
        for index, photo in enumerate(json.loads((CASES / "refs/refs.json").read_text())):
            changes = [change(nets, index, largest(photo["faces"]), pixels, draws) for pixels in PIXELS]
            print(f"| ref{index} | " + " | ".join(f"{one:.3f}" for one in changes) + " |", flush=True)


def largest(faces: list[dict]) -> NDArray[np.float32]:
    """The five landmarks (5, 2) of the face with the largest box."""

    def area(face: dict) -> float:
        x1, y1, x2, y2 = face["bbox"]
        return (x2 - x1) * (y2 - y1)

    return np.array(max(faces, key=area)["landmarks5"], np.float32)


def change(nets: tuple, index: int, kps: NDArray[np.float32], pixels: float, draws: int) -> float:
    """Mean over `draws` of |tokens − undisturbed tokens| / |undisturbed tokens|, normal noise of `pixels` per axis."""
    golden = load_file(CASES / f"ref{index}.safetensors")
    photo = np.asarray(shrink(Image.open(CASES / f"refs/ref{index}.png")))
    arcface = golden["arcface"][0].numpy()
    noise = np.random.default_rng(index).normal(0, pixels, (draws, 5, 2)).astype(np.float32)
    exact = tokens(nets, photo, kps, arcface)
    moved = [tokens(nets, photo, kps + one, arcface) for one in noise]
    return float(np.mean([float((one - exact).norm() / exact.norm()) for one in moved]))


def tokens(nets: tuple, photo: NDArray[np.uint8], kps: NDArray[np.float32], arcface: NDArray[np.float32]) -> Tensor:
    """Identity tokens (1, 10, width) of a photo aligned by `kps`."""
    return encode_photos(nets, [align(photo, kps)], [arcface])


if __name__ == "__main__":
    main()
