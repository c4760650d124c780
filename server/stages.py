"""Stages of a job inside a worker: prepare (fetch the pictures), generate, save; and how it ends when one fails."""

import contextlib
import gc
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from PIL import Image as PILImage
from sqlalchemy.exc import SQLAlchemyError

from pipelines.endpoint import Image, ImageField, Picture, Pipeline
from pipelines.errors import Cancelled, OutOfMemory, PipelineError
from server.assignment import Assignment
from server.bodies import FILE
from server.errors import RequestError, error_response
from server.files import FileStore, file_id_in, new_id
from server.inputs import FileDownloadError, fetch
from server.lifecycle import Lifecycle, decision_for
from server.parameters import parameters
from server.png import encode
from server.queue.job import Job
from server.queue.queue import Queue
from server.settings import Settings

FETCHES_AT_ONCE = 4
FINISH_RETRIES_S = (0.5, 1, 2, 4, 8)
"""Pauses while the database takes no writes; after the last one the job is left to its lease and run again."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Stages:
    """What the stages need. `pipelines` by endpoint id."""

    settings: Settings
    queue: Queue
    files: FileStore
    pipelines: Mapping[str, Pipeline]

    def prepare(self, assignment: Assignment) -> None:
        """Fetch the request's pictures and make it ready on the CPU. Raises InputError naming the field."""
        began = time.monotonic()
        job, endpoint = assignment.job, assignment.endpoint
        request = endpoint.input.model_validate(job.input)
        assignment.say("Preparing")
        with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:
            images = list(pool.map(lambda field: self._fetch(field, job), request.images()))
        assignment.prepared = self.pipelines[endpoint.id].prepare(request.request(), images)
        assignment.seconds += time.monotonic() - began

    def _fetch(self, field: ImageField, job: Job) -> PILImage.Image:
        """A picture of the request. Raises InputError, also for a file of ours that its owner keeps for itself."""
        file_id = file_id_in(field.url)
        entry = self.queue.ledger.find(file_id) if file_id else None
        if entry and (entry.expires_at <= time.time() or decision_for(entry.acl, entry.owner, job.owner) != "allow"):
            raise FileDownloadError(field.loc, "The file is not stored here any more, or not for you: upload it.")
        return fetch(field, self.settings, self.files)

    def generate(self, batch: Sequence[Assignment]) -> list[list[Picture]]:
        """The pictures of each job; all of one endpoint and batch key. Stops early only when every job should."""
        began = time.monotonic()
        try:
            return self._generate(batch)
        finally:
            for assignment in batch:
                assignment.seconds += time.monotonic() - began

    def _generate(self, batch: Sequence[Assignment]) -> list[list[Picture]]:
        """`generate`, and once more when the memory did not suffice."""
        pipeline = self.pipelines[batch[0].endpoint.id]
        prepared = [assignment.prepared for assignment in batch]

        def on_step(step: int, total: int) -> bool:
            stops = [assignment.on_step(step, total) for assignment in batch]
            return all(stops)

        with contextlib.suppress(OutOfMemory):
            return pipeline.generate(prepared, on_step)
        # Outside the handler: its traceback would keep the first try's tensors alive.
        log.warning("out of memory, trying once more", request_ids=[assignment.job.id for assignment in batch])
        gc.collect()
        return pipeline.generate(prepared, on_step)

    def save(self, assignment: Assignment, pictures: Sequence[Picture]) -> None:
        """Files first, then the row: a crash between the two leaves files that nobody knows, never a broken result."""
        assignment.say("Saving")
        job, output, seed = assignment.job, assignment.endpoint.output, pictures[0].seed
        text = self._parameters(assignment, seed)
        images = [self._store_patiently(picture, text, job) for picture in pictures]
        body = output.of(images, seed).model_dump(mode="json")
        metrics = output.metrics([measured(picture, job.id) for picture in pictures])
        log.info("job done", request_id=job.id, seconds=round(assignment.seconds, 3))
        if not self._finish(assignment, 200, body, metrics=metrics):
            # Nobody will ever ask for these, and a deleted request must leave nothing behind.
            self.files.delete([image.url.removeprefix(FILE) for image in images])

    def fail(self, assignment: Assignment, error: Exception) -> None:
        """End a job that `error` stopped. One that was taken away is dropped, one that we leave is given back."""
        job = assignment.job
        if assignment.stop == "lost":
            log.warning("job lost", request_id=job.id, attempt=job.attempt)
        elif assignment.stop == "leaving" and isinstance(error, Cancelled):
            self.queue.release(job)
            log.info("job given back", request_id=job.id)
        else:
            response = error_response(error)
            if isinstance(error, PipelineError | RequestError):
                log.info("job ended", request_id=job.id, error_type=response.error_type)
            else:
                log.error("job failed", request_id=job.id, exc_info=error)
            self._finish(assignment, response.status, response.body, error_type=response.error_type)

    def _parameters(self, assignment: Assignment, seed: int) -> Mapping[str, str]:
        """What to write into the PNGs of this job; nothing where the operator or the client wants nothing kept."""
        job, endpoint = assignment.job, assignment.endpoint
        if not (self.settings.png_parameters and job.store_io):
            return {}
        return parameters(endpoint, endpoint.input.model_validate(job.input), seed)

    def _store_patiently(self, picture: Picture, text: Mapping[str, str], job: Job) -> Image:
        """`_store`, tried for a while when the disk is full: the picture is too dear to be lost to that."""
        for pause in FINISH_RETRIES_S:
            with contextlib.suppress(OSError):
                return self._store(picture, text, job)
            log.warning("the picture cannot be stored yet", request_id=job.id)
            time.sleep(pause)
        return self._store(picture, text, job)

    def _store(self, picture: Picture, text: Mapping[str, str], job: Job) -> Image:
        data, file_id = encode(picture.image, {**text, **picture.text}), new_id("image/png")
        if job.lifecycle:
            wish = Lifecycle(**job.lifecycle)
            kept_s = wish.kept_s(self.settings.keep_results_h * 3600)
            self.queue.ledger.add_result(file_id, job.owner, len(data), kept_s, wish.acl)
        stored = self.files.save_as(file_id, data)
        height, width, _ = picture.image.shape
        return Image(
            url=FILE + stored.id,
            content_type=stored.content_type,
            file_name=stored.file_name,
            file_size=stored.size,
            width=width,
            height=height,
        )

    def _finish(self, assignment: Assignment, http_status: int, body: dict[str, Any], **more: Any) -> bool:
        """Returns False when it is certain that the outcome was dropped: the job was given away, or deleted.

        Args:
            more: what else `Queue.finish` takes.
        """
        job, more = assignment.job, {"inference_time": round(assignment.seconds, 6), **more}
        uncertain = False
        for pause in (*FINISH_RETRIES_S, None):
            try:
                assignment.flush(self.queue)
                kept = self.queue.finish(job, http_status, body, **more)
                if not kept:
                    log.warning("result dropped: the job was given to another worker, or deleted", request_id=job.id)
                return kept or uncertain
            except SQLAlchemyError as error:
                uncertain = True  # it may have been stored, and only the answer was lost
                log.warning("the result cannot be stored yet", request_id=job.id, error=type(error).__name__)
                if pause is not None:
                    time.sleep(pause)
        return True


def measured(picture: Picture, request_id: str) -> dict[str, float | None]:
    """The numbers about a picture. One that cannot be had is None: it is no reason to lose the picture."""
    numbers: dict[str, float | None] = {}
    for name, measure in picture.metrics.items():
        try:
            numbers[name] = measure()
        except Exception as error:
            log.warning("a picture could not be measured", request_id=request_id, metric=name, exc_info=error)
            numbers[name] = None
    return numbers
