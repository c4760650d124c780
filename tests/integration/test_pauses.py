"""Paused endpoints: requests are taken and wait, others run; resumed, they begin at once. On both databases."""

from tests.jobs import A, B, put
from tests.server_process import veraicon


def claimed(queue):
    return [job.endpoint for job in queue.claim("w", (A, B))]


def test_a_paused_endpoint_is_passed_over(queue):
    put(queue, A)
    put(queue, B)
    queue.pauses.pause(A, "its model is being replaced")
    assert (claimed(queue), claimed(queue)) == ([B], [])
    [pause] = queue.pauses.every()
    assert (pause.endpoint, pause.reason) == (A, "its model is being replaced")
    assert queue.pauses.resume(A)
    assert claimed(queue) == [A]
    assert not queue.pauses.resume(A)
    assert queue.pauses.every() == []


def test_a_pause_said_again_keeps_its_beginning(queue):
    queue.pauses.pause(A, "one")
    [first] = queue.pauses.every()
    queue.pauses.pause(A, "two")
    [second] = queue.pauses.every()
    assert (second.since, second.reason) == (first.since, "two")


def test_another_process_pauses_and_resuming_rings(open_queue):
    """The worker hears it at once, not at its next safety poll."""
    worker, operator = open_queue(), open_queue()
    operator.pauses.pause(A)
    put(worker, A)
    assert claimed(worker) == []
    rings = worker.rings("work", poll_s=60.0)
    next(rings)
    bell = worker._wakeup.bell("work")
    seen = bell._rings
    while bell._rings == seen:  # a listener may still be on its way to the database
        operator.pauses.resume(A)
        with bell._changed:
            bell._changed.wait_for(lambda: bell._rings != seen, timeout=0.2)
    assert claimed(worker) == [A]


def test_a_paused_queue_takes_requests_and_ends_what_runs(painting_server, gate, next_gate):
    """At the wire: the status is what it always is, and the operator sees what waits and why."""
    wire, folder, catalog = painting_server.wire, painting_server.data_dir, painting_server.settings["catalog"]

    def command(*words):
        done = veraicon(folder, "queue", *words, catalog=catalog)
        assert done.returncode == 0, done.stderr
        return done.stdout

    running = gate.run()
    assert "test/gate is paused" in command("pause", "test/gate", "--reason", "a new model")
    try:
        gate.open()
        assert wire.finish(running).status == 200
        waiting = next_gate.submit()
        shown = command("show")
        assert wire.status(waiting).json["status"] == "IN_QUEUE"
        assert next_gate.trace("started") == []
        [line] = [line for line in shown.splitlines() if line.startswith("test/gate")]
        assert "a new model" in line
        assert "1, the oldest for" in line
        assert "ready" in shown
        assert "gate" not in wire.get("/ready", host=None).json["reasons"]
    finally:
        assert "test/gate goes on." in command("resume")
    next_gate.wait_for_trace("started", 1)


def test_an_endpoint_that_is_not_offered_is_named(tmp_path):
    done = veraicon(tmp_path, "queue", "pause", "fal-ai/unknown")
    assert done.returncode == 2
    assert "fal-ai/unknown is not offered here" in done.stderr
