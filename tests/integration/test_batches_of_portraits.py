"""Batches of the two real pipelines, on the tiny weights, through a real worker: each picture is what it is alone."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.instantid.endpoint import INSTANTID_LCM
from pipelines.pulid.endpoint import PULID
from server.queue.job import Job
from tests.pipelines.held import HELD_BY
from tests.server_process import START_S
from tests.worker_process import Site, WorkerProcess, eventually

PHOTO = Path(__file__).parents[2] / "pipelines" / "selftest.jpg"
ENDPOINTS = {"instantid": INSTANTID_LCM, "pulid": PULID}
SEEDS = (1, 2, 3, 4)
STEPS = 3


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Inside, the jobs that this file holds stay on the device."""
    file.touch()
    try:
        yield
    finally:
        file.unlink()


class Studio:
    """A worker that makes batches of four, and the files that hold on its device a first job and those of a batch."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker, self.site = worker, worker.site
        self.first, self.batch = worker.site.folder / "first", worker.site.folder / "batch"
        self.photo = f"data:image/jpeg;base64,{base64.b64encode(PHOTO.read_bytes()).decode()}"

    def put(self, model: str, seed: int, hold: Path | None = None) -> Job:
        prompt = f"portrait {seed}{HELD_BY}{hold or self.batch}"
        body = {"prompt": prompt, "seed": seed, "num_inference_steps": STEPS}
        if model == "instantid":
            body |= {"face_image_url": self.photo}
        else:
            size = {"width": 256, "height": 256}
            body |= {"reference_images": [{"image_url": self.photo}], "image_size": size}
        return self.site.put(ENDPOINTS[model], **body)

    def together(self, model: str) -> list[Job]:
        """Four portraits that wait for the device, which is free now."""
        with held(self.first):
            self.site.running(self.put(model, 9, self.first))
            jobs = [self.put(model, seed) for seed in SEEDS]
            return self.site.prepared(*jobs)

    def picture(self, job: Job) -> np.ndarray:
        """(H, W, 3), once it is done."""
        result = self.site.done(job).result
        image = result.get("image") or result["images"][0]
        png = self.site.files.read(image["url"].removeprefix("file:"))
        return np.asarray(Image.open(io.BytesIO(png))).astype(int)

    def were_together(self, jobs: list[Job]) -> bool:
        lines = [line for line in self.worker.log.splitlines() if "generated together" in line]
        return any(all(job.id in line for job in jobs) for line in lines)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    settings = {"max_side_px": 128, "max_batch": 4, "batch_wait_ms": 1000}
    site = Site(tmp_path_factory.mktemp("site"), catalog="tests.pipelines.held:CATALOG", **settings)
    with site.worker() as worker:
        eventually(site.ready, START_S)
        yield Studio(worker)
    site.queue.close()


@pytest.mark.parametrize("model", ENDPOINTS)
def test_a_portrait_of_a_batch_is_what_it_is_alone(studio, model):
    """row 34: and when one of them is cancelled, the others are the same to the last bit."""
    alone = [studio.picture(studio.put(model, seed)) for seed in SEEDS[:2]]

    jobs = studio.together(model)
    batch = [studio.picture(job) for job in jobs]
    assert studio.were_together(jobs)
    assert max(np.abs(one - other).max() for one, other in zip(alone, batch, strict=False)) <= 1
    assert not any(np.array_equal(batch[0], other) for other in batch[1:])

    with held(studio.batch):
        again = studio.together(model)
        studio.site.running(again[1])
        studio.site.queue.cancel(again[1].id, "me")
        assert studio.site.done(again[1]).error_type == "client_cancelled"
    assert all(np.array_equal(studio.picture(again[index]), batch[index]) for index in (0, 2, 3))
    assert studio.were_together(again)
