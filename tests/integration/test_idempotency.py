"""Idempotency-Key: the same submit again gets the same request, at the wire and in both databases."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from server.auth import USUAL_SCOPES, key_hash, new_key
from server.files import FileStore
from server.queue.audit import audit
from server.queue.idempotency import Idempotency, IdempotencyKeyReused
from tests.app import running_app
from tests.conftest import PUBLISHED
from tests.jobs import claim_one, put
from tests.server_process import ServerProcess
from tests.wire import QUEUE
from tests.wire_checks import assert_is_request_error

PULID, OTHER = "/fal-ai/pulid", "/fal-ai/instantid/lcm"
SAME = {"seed": 1, "prompt": "portrait"}


def send(wire, key, body, endpoint=PULID, **headers):
    return wire.post(endpoint, body, headers={"Idempotency-Key": key, **headers})


def id_of(answer):
    assert answer.status == 200, answer.body
    return answer.json["request_id"]


def of(key, body=SAME):
    return Idempotency.of([key], "test/a", body)


def test_the_same_submit_again_is_the_same_request(wire, pulid_input):
    """row 40: waiting, running or done, with its members in any order; quotation marks are no part of the key."""
    first = send(wire, "again-1", pulid_input)
    backwards = dict(reversed(pulid_input.items()))
    second = send(wire, '"again-1"', backwards)
    assert id_of(first) == id_of(second) == first.headers["x-fal-request-id"] == second.headers["x-fal-request-id"]
    assert wire.finish(first.json).status == 200
    assert id_of(send(wire, "again-1", pulid_input)) == id_of(first)
    assert id_of(send(wire, "again-2", pulid_input)) != id_of(first)


def test_a_key_means_one_request_for_good(wire, pulid_input, instantid_input):
    """row 41: another body or endpoint under it is refused, and the first request is not touched."""
    first = id_of(send(wire, "taken", pulid_input))
    for endpoint, body in ((PULID, pulid_input | {"seed": 2}), (OTHER, instantid_input), (PULID, {})):
        refused = send(wire, "taken", body, endpoint)
        assert_is_request_error(refused, 422, "idempotency_key_reused")
        assert "'taken'" in refused.json["detail"]
        assert first in refused.json["detail"]
    assert id_of(send(wire, "taken", pulid_input)) == first


def test_an_invalid_input_is_stored_once_too(wire):
    first, second = (send(wire, "invalid", {"prompt": 1}) for _ in range(2))
    assert id_of(first) == id_of(second)
    assert wire.result(second.json).status == 422


@pytest.mark.parametrize("key", ["", '""', "a" * 256, "two words", "tab\there", "h\xe9"])
def test_a_key_that_cannot_be_one_is_refused(wire, pulid_input, key):
    refused = send(wire, key, pulid_input)
    assert_is_request_error(refused, 400, "bad_request")
    assert "Idempotency-Key" in refused.json["detail"]


def test_the_longest_key_is_taken(wire, pulid_input):
    assert len({id_of(send(wire, "~" * 255, pulid_input)) for _ in range(2)}) == 1


def test_web_pages_may_send_it(wire):
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    answer = wire.ask("OPTIONS", PULID, headers=asked | {"Access-Control-Request-Headers": "idempotency-key"})
    assert (answer.status, answer.headers["access-control-allow-headers"]) == (200, "idempotency-key")


def test_two_owners_may_use_the_same_key(tmp_path, pulid_input):
    with running_app(tmp_path) as (client, queue):
        ids = set()
        for name in ("anna", "ben"):
            key = new_key()
            queue.keys.add(name, name, key_hash(key), USUAL_SCOPES)
            headers = {"Authorization": f"Key {key}", "Idempotency-Key": "k", "Host": QUEUE}
            ids |= {client.post(PULID, json=pulid_input, headers=headers).json()["request_id"] for _ in range(2)}
    assert len(ids) == 2


def test_after_a_kill_of_everything_the_same_submit_finds_its_request(tmp_path, pulid_input):
    """row 40: a client that lost its answer with the server sends again; a refused photo leaves no face behind."""
    server = ServerProcess(tmp_path, "api", catalog=PUBLISHED)
    try:
        with server:
            first = id_of(send(server.wire, "k", pulid_input))
            server.kill()
        with server:
            assert id_of(send(server.wire, "k", pulid_input)) == first
            other = pulid_input | {"reference_images": [{"image_url": "data:image/png;base64,aGVsbG8="}]}
            assert_is_request_error(send(server.wire, "k", other), 422, "idempotency_key_reused")
    finally:
        server.kill()
    with running_app(tmp_path) as (_, queue):
        assert queue.census.take().states["IN_QUEUE"] == 1
        assert audit(queue, FileStore(f"file://{tmp_path / 'files'}")) == []


def test_of_many_at_once_one_is_stored(open_queue):
    queues = [open_queue() for _ in range(3)]

    def submit(number):
        return put(queues[number % 3], idempotency=of(f"k{number % 4}")).id

    with ThreadPoolExecutor(12) as pool:
        ids = list(pool.map(submit, range(48)))
    assert len(set(ids)) == queues[0].census.take().states["IN_QUEUE"] == 4


def test_of_many_different_ones_at_once_one_is_stored_and_the_others_are_told(open_queue):
    queues = [open_queue() for _ in range(2)]

    def submit(number):
        try:
            return put(queues[number % 2], idempotency=of("k", {"seed": number})).id
        except IdempotencyKeyReused:
            return None

    with ThreadPoolExecutor(8) as pool:
        ids = [one for one in pool.map(submit, range(16)) if one]
    assert len(ids) == 1
    assert queues[0].census.take().states["IN_QUEUE"] == 1


def test_a_full_queue_still_knows_what_it_took(queue):
    first = put(queue, idempotency=of("k"), max_queue=1)
    assert put(queue, idempotency=of("k"), max_queue=1).id == first.id


def test_a_key_is_kept_as_long_as_its_request(queue):
    first = put(queue, idempotency=of("k"))
    job = claim_one(queue)
    queue.finish(job, 200, {"seed": 1})
    assert put(queue, idempotency=of("k")).state == "COMPLETED"
    list(queue.erase([first.id], lambda _: None))
    assert put(queue, idempotency=of("k")).id != first.id
