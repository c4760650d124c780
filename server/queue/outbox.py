"""The outbox: webhooks that are to be sent, written in the transaction that finished their job."""

from collections.abc import Collection
from functools import cache

from sqlalchemy import Select, and_, case, or_, select, update

from server.queue.job import Webhook
from server.queue.store import Clock, Store
from server.queue.tables import outbox

FIRST_SENDING_S, LATER_SENDING_S = 20.0, 180.0
"""How long a sender may take before another one sends the same webhook: more than its timeout for that try."""


def due(store: Store, most: int, busy: Collection[str], *, first_tries: bool = False) -> list[Webhook]:
    """Take the webhooks whose time has come, oldest first. After a reboot all open are due.

    Args:
        busy: hosts that get none now.
        first_tries: whether only those are wanted that were not sent before.
    """
    clock, ready = store.clock, open_now(store.clock)
    ready = ready.where(outbox.c.host.not_in(busy)) if busy else ready
    ready = ready.where(outbox.c.tries == outbox.c.spared) if first_tries else ready
    with store.reading() as connection:
        if not connection.scalar(ready):
            return []
    pick = ready.order_by(outbox.c.id).limit(most).with_for_update(skip_locked=True)
    sending_s = case((outbox.c.tries == outbox.c.spared, FIRST_SENDING_S), else_=LATER_SENDING_S)
    take = (
        update(outbox)
        .where(outbox.c.id.in_(pick.cte("pick").select()))
        .values(tries=outbox.c.tries + 1, deadline=clock.now() + sending_s, clock=clock.name)
        .returning(outbox.c.id, outbox.c.job_id, outbox.c.url, outbox.c.tries, outbox.c.spared, outbox.c.host)
    )
    with store.writing() as connection:
        taken = [Webhook(*row) for row in connection.execute(take)]
    return sorted(taken, key=lambda webhook: webhook.id)


@cache
def open_now(clock: Clock) -> Select[int]:
    """One of those whose time has come. Asked every second, so not composed anew each time."""
    in_time = or_(outbox.c.clock != clock.name, outbox.c.deadline <= clock.now())
    return select(outbox.c.id).where(outbox.c.deadline.is_not(None), in_time).limit(1)


def settle(store: Store, webhook: Webhook, retry_in_s: float | None, error: str | None) -> None:
    """Delivered or given up (`retry_in_s` None), or to be sent again."""
    clock = store.clock
    again = clock.now() + retry_in_s if retry_in_s is not None else None
    mine = and_(outbox.c.id == webhook.id, outbox.c.tries == webhook.tries)
    with store.writing() as connection:
        connection.execute(update(outbox).where(mine).values(deadline=again, clock=clock.name, last_error=error))


def hand_back(store: Store, webhook: Webhook) -> None:
    """Its sender leaves in the middle of the try, which does not count: it is due at once, for any other sender."""
    clock = store.clock
    mine = and_(outbox.c.id == webhook.id, outbox.c.tries == webhook.tries, outbox.c.deadline.is_not(None))
    again = {"deadline": clock.now(), "clock": clock.name, "spared": outbox.c.spared + 1}
    with store.writing() as connection:
        connection.execute(update(outbox).where(mine).values(again))
