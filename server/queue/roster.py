"""The roster: what each worker last said about itself. Readiness is read from it."""

from sqlalchemy import delete, insert, select

from server.queue.job import WorkerState
from server.queue.store import Store
from server.queue.tables import workers


def publish(store: Store, state: WorkerState) -> None:
    now = {"seen": store.clock.now(), "clock": store.clock.name}
    said = {
        "name": state.name,
        "host": state.host,
        "device": state.device,
        "state": state.state,
        "message": state.message,
    }
    with store.writing() as connection:
        connection.execute(delete(workers).where(workers.c.name == state.name))
        connection.execute(insert(workers).values(**said, **now))


def forget(store: Store, name: str) -> None:
    with store.writing() as connection:
        connection.execute(delete(workers).where(workers.c.name == name))


def every(store: Store) -> list[WorkerState]:
    """All rows written since this machine booted (SQLite), with their age."""
    columns = (workers.c.name, workers.c.host, workers.c.device, workers.c.state, workers.c.message)
    age = (store.clock.now() - workers.c.seen).label("age_s")
    found = select(*columns, age).where(workers.c.clock == store.clock.name).order_by(workers.c.name)
    with store.reading() as connection:
        return [WorkerState(*row) for row in connection.execute(found)]
