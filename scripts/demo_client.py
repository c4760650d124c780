"""An ordinary program for fal's Python client, as any user would have it: nothing in it knows of Veraicon."""

import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fal_client


def printer() -> Callable[[Any], None]:
    """Prints every change once: fal's client asks ten times a second and hands over all log lines so far."""
    printed, ahead = 0, -1

    def show(update: Any) -> None:
        nonlocal printed, ahead
        match update:
            case fal_client.Queued(position=position) if position != ahead:
                print(f"  queued, {position} ahead", flush=True)
                ahead = position
            case fal_client.InProgress(logs=logs):
                for line in (logs or [])[printed:]:
                    print(f"  {line['message']}", flush=True)
                printed = len(logs or [])

    return show


def run(endpoint: str, arguments: dict[str, Any], out: Path) -> None:
    print(f"{endpoint}:", flush=True)
    answer = fal_client.subscribe(endpoint, arguments=arguments, with_logs=True, on_queue_update=printer())
    name = endpoint.removeprefix("fal-ai/").replace("/", "-")
    (out / f"{name}.json").write_text(json.dumps(answer, indent=2) + "\n")
    for index, image in enumerate(answer.get("images") or [answer["image"]]):
        picture = out / f"{name}{index or ''}.png"
        with urllib.request.urlopen(image["url"]) as response:
            picture.write_bytes(response.read())
        print(f"  {picture}: {image['width']}x{image['height']}, seed {answer['seed']}", flush=True)


def main(photo: Path, out: Path, seed: int) -> None:
    url = fal_client.encode_file(photo)
    run("fal-ai/instantid/lcm", {"face_image_url": url, "prompt": "an astronaut, studio portrait", "seed": seed}, out)
    run(
        "fal-ai/pulid", {"reference_images": [{"image_url": url}], "prompt": "portrait, in a garden", "seed": seed}, out
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
