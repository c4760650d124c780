"""Parts of a worker that its process shows too late, or only on a card: what they keep, count and tell."""

import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, text

from pipelines.endpoint import OnStep, Picture
from server.api.readiness import readiness_of
from server.metrics import WorkerMetrics
from server.queue.job import WorkerState
from server.queue.queue import Queue
from server.settings import Settings
from server.supervisor.vigil import MOST_MISSED, Vigil
from server.worker import drift
from server.worker.assignment import Assignment
from server.worker.departure import Departure
from server.worker.drift import FIRST_JOBS, Drift
from server.worker.generator import Generator
from server.worker.lineup import Lineup
from tests.pipelines.blue_square import BLUE_SQUARE
from tests.pipelines.characters import Character, ReadyWish
from tests.worker_process import Site


class Tensor:
    """Something large, that can be told when it is gone."""


class Fails(Character):
    """Its error was raised while another one was handled, with something large in the hands of both."""

    def __init__(self) -> None:
        self.computed: list[weakref.ref[Tensor]] = []

    def generate(self, prepared: Sequence[ReadyWish], on_step: OnStep) -> list[list[Picture]]:
        tensor = Tensor()
        self.computed.append(weakref.ref(tensor))
        try:
            self.inner()
        except KeyError as error:
            raise RuntimeError("no kernel") from error
        return []

    def inner(self) -> None:
        tensor = Tensor()
        self.computed.append(weakref.ref(tensor))
        raise KeyError("kernel")


@pytest.fixture
def assignment(tmp_path: Path) -> Assignment:
    """A claimed job that is ready."""
    site = Site(tmp_path)
    site.put(BLUE_SQUARE)
    [job] = site.queue.claim("w", [BLUE_SQUARE.id])
    site.queue.close()
    return Assignment(job, BLUE_SQUARE, prepared=ReadyWish(BLUE_SQUARE.input.model_validate(job.input).request()))


def generator_of(pipeline: Character, metrics: WorkerMetrics) -> Generator:
    return Generator({BLUE_SQUARE.id: pipeline}, Lineup(threading.Event()), metrics)


def test_an_error_keeps_nothing_alive_that_was_computed_before_it(assignment):
    pipeline = Fails()
    [outcome] = generator_of(pipeline, WorkerMetrics()).generate([assignment])
    assert isinstance(outcome, RuntimeError)
    assert outcome.__traceback__ is not None, "the log wants it"
    assert [tensor() for tensor in pipeline.computed] == [None, None]


def test_a_gap_is_no_longer_than_the_job_was_here(assignment):
    """One that was paused, or that a dead worker had, was submitted long before it could be generated."""
    metrics = WorkerMetrics()
    generator = generator_of(Character(), metrics)
    generator.generate([assignment])
    time.sleep(0.3)
    generator.generate([replace_claim(assignment)])
    gaps = {sample.name: sample.value for family in metrics.gpu_gap.collect() for sample in family.samples}
    assert gaps["veraicon_gpu_gap_seconds_count"] == 1
    assert gaps["veraicon_gpu_gap_seconds_sum"] < 0.2


def replace_claim(assignment: Assignment) -> Assignment:
    """The same job, claimed again just now."""
    return Assignment(assignment.job, assignment.endpoint, prepared=assignment.prepared)


def test_what_a_pipeline_keeps_from_its_first_jobs_on_is_no_growth(tmp_path, monkeypatch):
    statm = tmp_path / "statm"
    monkeypatch.setattr(drift, "STATM", statm)

    def after(watched: Drift, endpoint: str, pages: int) -> int:
        statm.write_text(f"0 {pages} 0 0 0 0 0")
        return watched.after(FIRST_JOBS, endpoint)

    watched = Drift(limit=4_096_000)
    assert after(watched, "one", 10_000) == 0
    assert after(watched, "other", 50_000) == 0, "its networks are in pinned memory from now on"
    assert after(watched, "one", 50_100) == 0
    assert after(watched, "one", 60_000) == 10_000 * 4096


def test_a_job_that_was_only_given_back_is_no_suspect_and_holds_nobody_up(assignment):
    leaving = threading.Event()
    lineup = Lineup(leaving)
    spared = Assignment(replace(assignment.job, attempt=2, spared=1), BLUE_SQUARE)
    suspect = Assignment(replace(assignment.job, attempt=2), BLUE_SQUARE)
    threading.Timer(1, lambda: (leaving.set(), lineup.wake())).start()
    for job in (spared, suspect):
        lineup.enter(job)
        job.began_at -= 1  # its pictures are slow
        assert lineup.room() == (1 if job is spared else 0)


def test_only_the_first_reason_to_leave_counts():
    departure, together = Departure(), threading.Barrier(8)

    def leave(code: int) -> None:
        together.wait()
        departure.leave(code, f"reason {code}")

    threads = [threading.Thread(target=leave, args=(code,)) for code in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert departure.decided.is_set()
    assert departure.why == f"reason {departure.exit_code}"
    departure.leave(99, "later")
    assert departure.why != "later"


def test_the_text_of_an_error_names_no_prompt_and_its_details_do():
    with pytest.raises(ValidationError) as refused:
        BLUE_SQUARE.input.model_validate({"prompt": ["my private wish"]})
    assert "private wish" not in f"{refused.value!s}{refused.value!r}"
    assert refused.value.errors()[0]["input"] == ["my private wish"], "fal's bodies repeat it to the client"


def test_a_folder_of_pictures_that_is_gone_is_a_reason_and_no_error(tmp_path):
    site, gone = Site(tmp_path), tmp_path / "mount" / "files"
    reasons = readiness_of(site.queue, Settings(data_dir=tmp_path, files_url=f"file://{gone}")).reasons
    assert any(f"{gone} cannot be looked at" in reason for reason in reasons)
    site.queue.close()


def said(queue: Queue, state: str) -> None:
    queue.publish_worker(WorkerState("test:0", "host", "cpu", state, "", 0))


def test_a_worker_is_given_up_only_in_its_own_silence(tmp_path):
    """Not while it loads, nor because of what the run before it said, nor while nobody can write."""
    queue = Site(tmp_path, lease_s=0.9, heartbeat_s=0.3).queue
    said(queue, "ready")
    time.sleep(0.05)
    vigil = Vigil(queue, "test:0")
    assert not vigil.over()
    silence(queue, tmp_path)
    assert not any(vigil.over() for _ in range(2 * MOST_MISSED))
    said(queue, "loading")
    assert not any(vigil.over() for _ in range(2 * MOST_MISSED))
    said(queue, "ready")
    assert not vigil.over()
    silence(queue, tmp_path)
    assert [vigil.over() for _ in range(MOST_MISSED)] == [False] * (MOST_MISSED - 1) + [True]
    queue.close()


def silence(queue: Queue, folder: Path) -> None:
    """As if it had spoken for the last time an hour ago."""
    engine = create_engine(f"sqlite:///{folder / 'queue.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE workers SET seen = seen - 3600"))
    engine.dispose()


def test_a_database_that_takes_no_writes_is_no_silence(tmp_path):
    queue = Site(tmp_path, lease_s=0.9, heartbeat_s=0.3).queue
    vigil = Vigil(queue, "test:0")
    said(queue, "ready")
    assert not vigil.over()
    silence(queue, tmp_path)
    engine = create_engine(f"sqlite:///{tmp_path / 'queue.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TRIGGER full BEFORE DELETE ON workers BEGIN SELECT RAISE(ABORT, 'full'); END"))
    engine.dispose()
    assert not any(vigil.over() for _ in range(3 * MOST_MISSED))
    queue.close()
