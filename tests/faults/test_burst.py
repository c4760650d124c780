"""More at once than the server wants: everyone is told so, nobody is forgotten, and its memory stays where it was."""

import itertools
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

from tests.faults.conftest import MAX_QUEUE
from tests.faults.site import PULID

SUBMITS, CONNECTIONS = 10_000, 32
MOST_GROWTH_MB = 150


def test_a_burst_of_ten_thousand_is_acknowledged_or_refused_and_costs_little_memory(site, scene):
    """row 29, row 30: acknowledged up to the cap, then 429 with Retry-After; whatever was acknowledged is there."""
    site.fill(scene)
    body = json.dumps(site.portrait(reference_images=[{"image_url": site.upload_photo()}])).encode()
    numbers = itertools.count()

    def submit_many(connection: HTTPConnection) -> list[tuple[int, bool, Any]]:
        answers = []
        while next(numbers) < SUBMITS:
            site.anna.send(connection, "POST", f"/{PULID}", body)
            response = connection.getresponse()
            answers.append((response.status, "retry-after" in response.headers, json.loads(response.read())))
        return answers

    api = site.http()
    before_mb, began = api.memory_info().rss / 1e6, time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        connections = [site.anna.connect() for _ in range(CONNECTIONS)]
        answers = list(itertools.chain(*pool.map(submit_many, connections)))
        grown_mb, seconds = api.memory_info().rss / 1e6 - before_mb, time.monotonic() - began
        acknowledged = [told for status, _, told in answers if status == 200]
        stored = {job.id for job in site.stored() if job.state == "IN_QUEUE"}
        cancelled = list(pool.map(site.anna.cancel, acknowledged))
        for connection in connections:
            connection.close()
    kinds = Counter((status, again) for status, again, _ in answers)
    print(f"{SUBMITS} submits in {seconds:.1f} s: {dict(kinds)}; the API grew by {grown_mb:.0f} MB")

    assert kinds.total() == SUBMITS
    assert kinds.keys() == {(200, False), (429, True)}
    assert MAX_QUEUE - CONNECTIONS <= len(acknowledged) <= MAX_QUEUE
    assert {told["request_id"] for told in acknowledged} <= stored
    assert {answer.status for answer in cancelled} == {202}
    assert grown_mb < MOST_GROWTH_MB
