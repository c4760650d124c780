"""Stages of a job inside a worker beside the device's: fetch, prepare, save; and how it ends when one fails."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from PIL import Image as PILImage
from sqlalchemy.exc import SQLAlchemyError

from pipelines.endpoint import Image, ImageField, Picture, Pipeline
from pipelines.errors import Cancelled, PipelineError
from server.bodies import FILE
from server.errors import RequestError, error_response
from server.files import FileStore, file_id_in, new_id
from server.inputs import FileDownloadError, fetch
from server.lifecycle import Lifecycle, decision_for
from server.metrics import WorkerMetrics
from server.objects import FilesUnreachable
from server.parameters import parameters
from server.png import encode
from server.queue.job import Job
from server.queue.queue import Queue
from server.settings import Settings
from server.worker.assignment import Assignment
from server.worker.patience import PAUSES_S, patiently

FETCHES_AT_ONCE = 4
OUTAGES = (SQLAlchemyError, FilesUnreachable)
"""The database or the object store is away: nothing that a request, or this process, is to blame for."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Stages:
    """What the stages need. `pipelines` by endpoint id."""

    settings: Settings
    queue: Queue
    files: FileStore
    pipelines: Mapping[str, Pipeline]
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)

    def fetch(self, assignment: Assignment) -> None:
        """Fetch the request's pictures. Raises InputError naming the field, Cancelled when its job should stop."""
        with self._stage(assignment, "fetch"):
            request = assignment.endpoint.input.model_validate(assignment.job.input)
            assignment.resume()
            assignment.say("Preparing")
            with ThreadPoolExecutor(FETCHES_AT_ONCE) as pool:
                assignment.images = list(pool.map(lambda field: self._fetch(field, assignment), request.images()))
            assignment.rest()

    def prepare(self, assignment: Assignment) -> None:
        """Make a request that has its pictures ready on the CPU. Raises InputError naming the field."""
        with self._stage(assignment, "prepare"):
            endpoint = assignment.endpoint
            assignment.resume()
            request = endpoint.input.model_validate(assignment.job.input).request()
            assignment.prepared = self.pipelines[endpoint.id].prepare(request, assignment.images)
            assignment.images = ()
            assignment.rest()

    @contextlib.contextmanager
    def _stage(self, assignment: Assignment, stage: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            took_s = time.monotonic() - began
            assignment.seconds += took_s
            self.metrics.stage_seconds.labels(assignment.endpoint.id, stage).observe(took_s)

    def _fetch(self, field: ImageField, assignment: Assignment) -> PILImage.Image:
        """A picture of the request. Raises InputError, also for a file of ours that its owner keeps for itself."""
        job, file_id = assignment.job, file_id_in(field.url)
        entry = self.queue.ledger.find(file_id) if file_id else None
        if entry and (entry.expires_at <= time.time() or decision_for(entry.acl, entry.owner, job.owner) != "allow"):
            raise FileDownloadError(field.loc, "The file is not stored here any more, or not for you: upload it.")
        trouble = "a picture cannot be read yet"
        fetching = partial(fetch, field, self.settings, self.files, wanted=lambda: assignment.stop is None)
        return patiently(fetching, FilesUnreachable, trouble, request_id=job.id)

    def save(self, assignment: Assignment, pictures: Sequence[Picture]) -> None:
        """Files first, then the row: a crash between the two leaves files that will be swept, never a broken result."""
        began = time.monotonic()
        assignment.resume()
        assignment.say("Saving")
        job, output, seed = assignment.job, assignment.endpoint.output, pictures[0].seed
        text, ids = self._parameters(assignment, seed), [new_id("image/png") for _ in pictures]
        if not self._announced(job, ids):
            log.warning("job lost", request_id=job.id, attempt=job.attempt)
            return
        images = [self._store_patiently(*each, text, job) for each in zip(ids, pictures, strict=True)]
        body = output.of(images, seed).model_dump(mode="json")
        metrics = output.metrics([measured(picture, job.id) for picture in pictures])
        log.info("job done", request_id=job.id, seconds=round(assignment.seconds, 3))
        if not self._finish(assignment, 200, body, metrics=metrics):
            # Nobody will ever ask for these, and a deleted request must leave nothing behind.
            self.files.delete(ids)
        self.metrics.stage_seconds.labels(job.endpoint, "save").observe(time.monotonic() - began)

    def fail(self, assignment: Assignment, error: Exception) -> None:
        """End a job that `error` stopped. One that was taken away is dropped, one that we leave is given back."""
        job = assignment.job
        if assignment.stop == "lost":
            log.warning("job lost", request_id=job.id, attempt=job.attempt)
        elif assignment.stop == "leaving" and isinstance(error, Cancelled):
            self.queue.release(job)
            log.info("job given back", request_id=job.id)
        elif isinstance(error, OUTAGES):
            # The request is blameless: it is tried again when its lease ends, within max_attempts.
            log.warning("job left to its lease", request_id=job.id, error=type(error).__name__)
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

    def _announced(self, job: Job, file_ids: Sequence[str]) -> bool:
        """Say what will be written for the job. False: it was given to someone else."""
        note = partial(self.queue.drafts.note, job, file_ids)
        return patiently(note, SQLAlchemyError, "the picture cannot be announced yet", request_id=job.id)

    def _store_patiently(self, file_id: str, picture: Picture, text: Mapping[str, str], job: Job) -> Image:
        """`_store`, tried for a while when the disk is full: the picture is too dear to be lost to that."""
        trouble = "the picture cannot be stored yet"
        return patiently(partial(self._store, file_id, picture, text, job), OSError, trouble, request_id=job.id)

    def _store(self, file_id: str, picture: Picture, text: Mapping[str, str], job: Job) -> Image:
        data = encode(picture.image, {**text, **picture.text})
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
        for pause in (*PAUSES_S, None):
            try:
                assignment.flush(self.queue)
                kept = self.queue.finish(job, http_status, body, **more)
                if kept:
                    self.metrics.jobs.labels(job.endpoint, more.get("error_type") or "ok").inc()
                else:
                    log.warning("result dropped: the job was given to another worker, or deleted", request_id=job.id)
                return kept or (uncertain and self._is_stored(job, body))
            except SQLAlchemyError as error:
                uncertain = True  # it may have been stored, and only the answer was lost
                log.warning("the result cannot be stored yet", request_id=job.id, error=type(error).__name__)
                if pause is not None:
                    time.sleep(pause)
        return True

    def _is_stored(self, job: Job, body: dict[str, Any]) -> bool:
        """Whether the job ended with this body, which names its own files, so that no other worker's is equal."""
        stored = self.queue.get(job.id)
        return stored is not None and stored.result == body


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
