"""A recorded request through the whole product: HTTPS, queue, worker process, file; the picture is upstream's."""

import io
import json
import ssl
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.sdxl.decode import to_pixels
from scripts.replay_instantid import PROFILE, RecordedFaces, request_of
from tests.conftest import as_data_uri
from tests.pipelines.recorded import CASE, RecordedInstantID
from tests.server_process import ServerProcess

GOLDEN = Path(__file__).parents[1] / "golden" / "instantid"
WEIGHTS = Path(__file__).parents[2] / "weights" / "tiny" / "instantid"


@pytest.fixture(scope="module")
def case() -> dict[str, Any]:
    return next(c for c in json.loads((GOLDEN / "index.json").read_text())["cases"] if c["name"] == CASE.stem)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(CASE) as arrays:
        return dict(arrays)


def test_the_png_over_https_holds_the_pixels_of_the_replayed_case(tmp_path, case, golden):
    torch.set_num_threads(1)
    settings = {"catalog": "tests.pipelines.recorded:CATALOG", "max_side_px": 64}
    with ServerProcess(tmp_path, "serve", "--tls", **settings) as server:
        served, metrics = post_and_wait(server, api_request(case, golden))
    assert served.shape == (case["height"], case["width"], 3)
    assert np.array_equal(served, replayed(case, golden))
    recorded = (golden["image"].clip(0, 1) * 255).round()
    assert np.abs(served.astype(float) - recorded).max() <= 1
    assert metrics["identity_similarity"] == 1, "the recorded analyser sees the same person in every picture"


def api_request(case: dict[str, Any], golden: dict[str, Any]) -> dict[str, Any]:
    content = io.BytesIO()
    Image.fromarray(golden["in_face_image"]).save(content, "PNG")
    return {
        "face_image_url": as_data_uri(content.getvalue()),
        "prompt": case["prompt"],
        "style": case["style"],
        "negative_prompt": case["negative_prompt"],
        "num_inference_steps": case["steps"],
        "guidance_scale": case["guidance"],
        "controlnet_selection": case["control"],
        "controlnet_conditioning_scale": case["control_scale"],
        "ip_adapter_scale": case["ip_scale"],
        "identity_controlnet_conditioning_scale": case["identity_scale"],
        "enhance_face_region": case["enhance"],
        "seed": case["seed"],
    }


def post_and_wait(server: ServerProcess, request: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """The picture, and the metrics of the finished request's status."""
    trust = ssl.create_default_context(cafile=server.ca_file)

    def fetch(url: str, body: bytes | None = None) -> bytes:
        call = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(call, context=trust, timeout=60) as response:
            return response.read()

    queued = json.loads(fetch(f"{server.url}/queue/fal-ai/instantid/lcm", json.dumps(request).encode()))
    while (status := json.loads(fetch(queued["status_url"])))["status"] != "COMPLETED":
        time.sleep(0.1)
    image = json.loads(fetch(queued["response_url"]))["image"]
    return np.asarray(Image.open(io.BytesIO(fetch(image["url"])))), status["metrics"]


def replayed(case: dict[str, Any], golden: dict[str, Any]) -> np.ndarray:
    pipeline = RecordedInstantID.load(WEIGHTS, PROFILE)
    assert isinstance(pipeline.faces, RecordedFaces)
    photo = Image.fromarray(golden["in_face_image"])
    prepared = pipeline.prepare(request_of(case, golden), [photo])
    ((raw,),) = pipeline.generate([prepared], lambda step, total: False, "raw")
    return to_pixels(raw.image)
