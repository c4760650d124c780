"""An ordinary program for fal's Python client: a small portrait from each endpoint, printed as JSON."""

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import fal_client


def main(photo: Path) -> dict[str, Any]:
    url = fal_client.encode_file(photo)
    size = {"width": 256, "height": 256}
    requests: dict[str, Any] = {
        "fal-ai/instantid/lcm": {"face_image_url": url, "prompt": "man", "num_inference_steps": 1},
        "fal-ai/pulid": {
            "reference_images": [{"image_url": url}],
            "prompt": "portrait",
            "num_inference_steps": 1,
            "image_size": size,
        },
    }
    return {name: picture(fal_client.subscribe(name, arguments=body)) for name, body in requests.items()}


def picture(answer: dict[str, Any]) -> dict[str, Any]:
    image = answer["images"][0] if "images" in answer else answer["image"]
    with urllib.request.urlopen(image["url"]) as response:
        return {"seed": answer["seed"], "png": response.read(8).hex(), "width": image["width"]}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
