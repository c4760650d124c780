"""The soak: both stores for forty seconds of kills; and its checks, which must see through every tampered history."""

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from scripts.soak.checks import findings
from scripts.soak.clients import digest
from scripts.soak.kept import Program, keeping, remaining
from scripts.soak.killer import Blow, Havoc, shuffled
from scripts.soak.orders import KINDS, MENUS, orders
from scripts.soak.receipts import Delivery, Evidence, Fetched, Receipt
from server.files import FileStore
from server.queue.migrations import create_tables
from server.queue.queue import Queue
from server.queue.store import Store
from server.queue.tables import jobs
from tests.databases import STORES
from tests.jobs import claim_one, put
from tests.server_process import ROOT

TIMES = ["--seconds", "40", "--kills-every", "2"]
LONGEST_S = 240
LEAST_FINISHED, LEAST_KILLS = 10, 3
"""With less nothing was tried; a busy machine still does more."""


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_killed_at_random_a_site_loses_nothing_and_makes_nothing_twice(store):
    command = [sys.executable, "-m", "scripts.soak", "--store", store, "--catalog", "painted", *TIMES]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as soak:
        watchdog = threading.Timer(LONGEST_S, soak.terminate)  # it stops what it started, which a kill would leave
        watchdog.start()
        told, errors = soak.communicate()
        watchdog.cancel()
    print(told)

    assert soak.returncode == 0, told + errors
    figures = re.search(r"(\d+) finished, (\d+) lost, (\d+) doubled, (\d+) kills", told)
    finished, lost, doubled, kills = map(int, figures.groups())
    assert (lost, doubled) == (0, 0)
    assert finished >= LEAST_FINISHED
    assert kills >= LEAST_KILLS
    assert f"| {store} | |" in told


@dataclass
class History:
    """A site's end: what its clients were told, and the stores."""

    evidence: Evidence
    database_url: str
    folder: Path

    def found(self) -> set[str]:
        files = FileStore(f"file://{self.folder}")
        return {f"{one.breach}: {one.text}" for one in findings(self.evidence, self.database_url, files)}

    def change(self, statement: object) -> None:
        store = Store(self.database_url)
        with store.writing() as connection:
            connection.execute(statement)
        store.close()

    def change_receipt(self, **changes: object) -> None:
        first, *others = self.evidence.receipts
        self.evidence = replace(self.evidence, receipts=(replace(first, **changes), *others))

    def change_delivery(self, **changes: object) -> None:
        first = replace(self.evidence.deliveries[0], **changes)
        self.evidence = replace(self.evidence, deliveries=(*self.evidence.deliveries, first))

    @property
    def first(self) -> str:
        return self.evidence.receipts[0].request_id


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Two requests, done and told, and nothing wrong."""
    url, folder = f"sqlite:///{tmp_path / 'queue.db'}", tmp_path / "files"
    create_tables(url)
    queue, files, receipts, deliveries = Queue(url, lease_s=30, max_attempts=3), FileStore(f"file://{folder}"), [], []
    for key in ("one", "two"):
        put(queue, webhook=f"http://127.0.0.1:9/{key}")
        job, picture = claim_one(queue), key.encode()
        stored = files.save(picture, "image/png")
        queue.finish(job, 200, {"images": [{"url": f"file:{stored.id}"}]})
        for webhook in queue.due_webhooks():
            queue.webhook_delivered(webhook)
        result = Fetched(200, digest(b"result of " + picture), {stored.id: digest(picture)})
        receipts.append(Receipt(key, "plain", True, (job.id,), f"/requests/{job.id}", (result, result)))
        deliveries.append(Delivery(key, job.id, digest(job.id.encode()), 200))
    queue.close()
    return History(Evidence(tuple(receipts), tuple(deliveries)), url, folder)


def test_an_honest_history_passes_and_survives_its_file(history, tmp_path):
    assert history.found() == set()

    history.evidence.write(tmp_path / "evidence.json")
    assert Evidence.read(tmp_path / "evidence.json") == history.evidence


def a_row_is_gone(history: History) -> None:
    history.change(delete(jobs).where(jobs.c.id == history.first))


def a_row_was_never_finished(history: History) -> None:
    history.change(update(jobs).where(jobs.c.id == history.first).values(state="IN_QUEUE"))


def a_request_that_nobody_sent(history: History) -> None:
    queue = Queue(history.database_url, lease_s=30, max_attempts=3)
    put(queue)
    queue.finish(claim_one(queue), 200, {})
    queue.close()


def two_acknowledgements(history: History) -> None:
    history.change_receipt(request_ids=(history.first, "another"))


def a_result_that_changes(history: History) -> None:
    once = history.evidence.receipts[0].fetched[0]
    history.change_receipt(fetched=(once, replace(once, body=digest(b"another"))))


def no_result(history: History) -> None:
    history.change_receipt(fetched=(), trouble="it was still IN_QUEUE")


def a_failure(history: History) -> None:
    history.change_receipt(fetched=(Fetched(500, digest(b"oh"), {}),))


def picture_of(history: History) -> Path:
    [file_id] = history.evidence.receipts[0].fetched[0].pictures
    [path] = history.folder.rglob(file_id)
    return path


def a_picture_is_gone(history: History) -> None:
    picture_of(history).unlink()


def a_picture_has_changed(history: History) -> None:
    picture_of(history).write_bytes(b"xyz")


def a_picture_of_nobody(history: History) -> None:
    FileStore(f"file://{history.folder}").save(b"late", "image/png")


def a_webhook_that_never_came(history: History) -> None:
    history.evidence = replace(history.evidence, deliveries=history.evidence.deliveries[1:])


def a_webhook_that_was_only_refused(history: History) -> None:
    refused = tuple(replace(one, answered=503) for one in history.evidence.deliveries)
    history.evidence = replace(history.evidence, deliveries=refused)


def a_webhook_with_another_body(history: History) -> None:
    history.change_delivery(body=digest(b"other"))


def a_webhook_with_another_id(history: History) -> None:
    history.change_delivery(request_id="another")


def a_webhook_for_nobody(history: History) -> None:
    history.change_delivery(key="three")


def a_webhook_that_was_not_wanted(history: History) -> None:
    history.change_receipt(webhook=False)


TAMPERED: dict[Callable[[History], None], str] = {
    a_row_is_gone: "lost: order one .* was acknowledged and is not stored",
    a_row_was_never_finished: "lost: order one .* was acknowledged and is IN_QUEUE",
    a_request_that_nobody_sent: "doubled: request .* is stored, and no client knows it",
    two_acknowledgements: "doubled: order one .* was acknowledged as .*, another",
    a_result_that_changes: "doubled: order one .* had another result when it was fetched again",
    no_result: "lost: order one .* was acknowledged and has no result",
    a_failure: "amiss: order one .* is plain and ended with status 500",
    a_picture_is_gone: "lost: order one .*: picture .* is gone",
    a_picture_has_changed: "amiss: order one .*: picture .* has changed since its client read it",
    a_picture_of_nobody: "amiss: the file .* is stored, but no request .*",
    a_webhook_that_never_came: "webhook: order one .* was tried 0 times and never taken",
    a_webhook_that_was_only_refused: "webhook: order two .* was tried 1 times and never taken",
    a_webhook_with_another_body: "webhook: order one .* came with different bodies",
    a_webhook_with_another_id: "webhook: order one .* came under the ids .*",
    a_webhook_for_nobody: "webhook: 1 webhooks came for three, which nobody ordered",
    a_webhook_that_was_not_wanted: "webhook: order one .* wanted no webhook and got 1",
}


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__)
def test_a_tampered_history_is_found_out(history, tamper):
    tamper(history)

    assert any(re.fullmatch(TAMPERED[tamper], text) for text in history.found()), history.found()


def test_the_same_seed_brings_the_same_orders_of_every_kind():
    menu = MENUS["painted"]
    first, again, other = (list(islice(orders(menu, seed), 100)) for seed in (1, 1, 2))

    assert first == again
    assert [order.kind for order in first] != [order.kind for order in other]
    assert {order.kind for order in first} == set(KINDS)
    assert {order.webhook for order in first} == {order.twice for order in first} == {True, False}


def test_every_blow_falls_in_each_round_as_often_as_it_weighs():
    blows = [Blow(name, weight, lambda _: True) for name, weight in (("a", 3), ("b", 1), ("c", 2))]
    first, again = (list(islice(shuffled(blows, random.Random(seed)), 12)) for seed in (1, 1))

    assert first == again
    for round_ in (first[:6], first[6:]):
        assert {blow.name for blow in round_[:3]} == {"a", "b", "c"}
        assert Counter(blow.name for blow in round_) == {"a": 3, "b": 1, "c": 2}


def test_blows_that_need_a_working_site_wait_for_it(tmp_path):
    """Those that do not need it fall meanwhile; what found nothing to hit is not counted."""
    struck, looks = Counter(), iter([False, False, True])
    blows = [Blow("waits", 1, lambda _: True), Blow("at once", 1, lambda _: True, at_once=True)]
    misses = Blow("misses", 5, lambda _: False, at_once=True)
    Havoc(0.001, 2, seed=1).wreak([*blows, misses], lambda: next(looks, False), struck, tmp_path / "kills.log")

    assert struck["waits"] == 1
    assert struck["at once"] >= 1
    assert struck["misses"] == 0
    assert len((tmp_path / "kills.log").read_text().splitlines()) == struck.total()


PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
time.sleep(60)
"""


def test_a_process_that_outlives_its_parent_is_found_and_ended(tmp_path):
    program = Program("parent", [sys.executable, "-c", PARENT], {}, tmp_path / "parent.log")
    with keeping(program) as [parent]:
        limit = time.monotonic() + LONGEST_S
        while not parent.children("import time; time.sleep(60)"):
            assert time.monotonic() < limit
            time.sleep(0.02)
        [child] = parent.children()
        assert parent.kill_alone()
        told = remaining([parent], within_s=0.1)

    assert told == [f"process {child.pid} of parent outlived its parent"]
    child.wait(LONGEST_S)


def test_what_is_kept_is_started_again_and_stopped_at_the_end(tmp_path):
    program = Program("sleeper", ["sleep", "60"], {"PATH": os.environ["PATH"]}, tmp_path / "log")
    with keeping(program) as [sleeper]:
        assert sleeper.kill_all()
        limit = time.monotonic() + LONGEST_S
        while not (sleeper.starts == 2 and sleeper.is_up):
            assert time.monotonic() < limit
            time.sleep(0.02)

    assert not sleeper.is_up
