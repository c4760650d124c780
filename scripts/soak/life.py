"""Life: a site under orders and blows, then left in peace until everything is done and told."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import exists, select

from scripts.soak.clients import Client
from scripts.soak.crowd import fetch_again, serve
from scripts.soak.door import Door, Weather
from scripts.soak.killer import Havoc
from scripts.soak.orders import MENUS, orders
from scripts.soak.receipts import Evidence
from scripts.soak.receiver import receiving
from scripts.soak.site import Site
from server.queue.store import Store
from server.queue.tables import outbox

PATIENCE_S = 240.0
"""After the last blow: for the jobs that wait, and for webhooks whose sender died while it sent."""


@dataclass(frozen=True)
class Plan:
    """What to do to a site.

    Args:
        store / catalog: names in site.STORES and orders.MENUS.
        seconds: how long orders come and blows fall.
        kills_every_s: seconds between two blows, on average; more while the site recovers.
        jobs_per_s: orders per second, as long as not too many clients wait.
        seed: the same one brings the same orders and the same order of blows.
    """

    store: str
    catalog: str
    seconds: float
    kills_every_s: float
    jobs_per_s: float
    seed: int


@dataclass(frozen=True)
class Life:
    """What was done and seen. `seconds`: from the first order to the last check at the wire."""

    seconds: float
    evidence: Evidence
    struck: Counter[str]
    weather: Weather


def live(plan: Plan, site: Site, database_url: str, folder: Path) -> Life:
    """Raises NotReady when the site does not recover from the last blow."""
    began, weather, struck = time.monotonic(), Weather(), Counter[str]()
    gives_up_at = began + plan.seconds + PATIENCE_S
    havoc = Havoc(plan.kills_every_s, plan.seconds, plan.seed)
    with receiving() as receiver:
        client = Client(Door(site.addresses, weather, gives_up_at), receiver.url)
        targets = (site.blows, site.works, struck, folder / "kills.log")
        killer = threading.Thread(target=havoc.wreak, args=targets, name="killer", daemon=True)
        killer.start()
        receipts = serve(orders(MENUS[plan.catalog], plan.seed), client, plan.jobs_per_s, plan.seconds)
        killer.join()
        site.wait_until_ready(folder)
        wait_until_told(database_url, gives_up_at)
        receipts = fetch_again(client, receipts)
    evidence = Evidence(tuple(receipts), tuple(receiver.deliveries))
    return Life(time.monotonic() - began, evidence, struck, weather)


def wait_until_told(database_url: str, gives_up_at: float) -> None:
    """Until no webhook waits to be sent, or patience ends; what is missing then is a finding."""
    store = Store(database_url)
    waiting = select(exists().where(outbox.c.deadline.is_not(None)))
    while time.monotonic() < gives_up_at:
        with store.reading() as connection:
            if not connection.scalar(waiting):
                break
        time.sleep(0.2)
    store.close()
