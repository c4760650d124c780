"""Figures: what a soak comes to, as one line and as a Markdown table."""

import os
from collections import Counter
from dataclasses import dataclass

import psutil
from sqlalchemy import func, select

from scripts.soak.checks import Finding
from scripts.soak.life import Life
from server.queue.store import Store
from server.queue.tables import jobs


@dataclass(frozen=True)
class Figures:
    """Everything about one soak. `reruns`, `spared`: see `attempts`."""

    store: str
    life: Life
    found: list[Finding]
    reruns: int
    spared: int

    @property
    def acknowledged(self) -> int:
        return sum(receipt.request_id is not None for receipt in self.life.evidence.receipts)

    @property
    def finished(self) -> int:
        return sum(bool(receipt.fetched) for receipt in self.life.evidence.receipts)

    def breaches(self, breach: str) -> int:
        return sum(finding.breach == breach for finding in self.found)

    @property
    def deliveries(self) -> str:
        """Number, and the least and the most per request that wanted to be told."""
        per_key = Counter(one.key for one in self.life.evidence.deliveries)
        told = [
            per_key[receipt.key] for receipt in self.life.evidence.receipts if receipt.webhook and receipt.request_id
        ]
        return f"{sum(told)} for {len(told)} requests, {min(told, default=0)} to {max(told, default=0)} each"

    @property
    def line(self) -> str:
        return (
            f"{self.store}: {self.acknowledged} acknowledged, {self.finished} finished, {self.breaches('lost')} lost, "
            f"{self.breaches('doubled')} doubled, {self.life.struck.total()} kills, {self.reruns} re-runs, "
            f"{len(self.found)} findings"
        )

    @property
    def table(self) -> str:
        load, cores = psutil.getloadavg(), os.cpu_count()
        kinds = Counter(receipt.kind for receipt in self.life.evidence.receipts)
        lines = {
            "lasted": f"{self.life.seconds:.0f} s",
            "requests acknowledged": f"{self.acknowledged} ({counted(kinds)})",
            "finished, their results fetched": str(self.finished),
            "lost": str(self.breaches("lost")),
            "doubled": str(self.breaches("doubled")),
            "webhooks missing or different": str(self.breaches("webhook")),
            "anything else amiss": str(self.breaches("amiss")),
            "kills": f"{self.life.struck.total()} ({counted(self.life.struck)})",
            "attempts beyond the first": f"{self.reruns}, and {self.spared} given back in order",
            "webhooks delivered": self.deliveries,
            "failed tries of clients": f"{self.life.weather.failures.total()} ({counted(self.life.weather.failures)})",
            "longest that a client had to try again": f"{self.life.weather.longest_s:.1f} s",
            "load average, 1 and 15 minutes": f"{load[0]:.1f}, {load[2]:.1f} on {cores} cores",
        }
        return "\n".join(
            [f"| {self.store} | |", "|---|---|", *(f"| {name} | {told} |" for name, told in lines.items())]
        )


def counted(numbers: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.most_common()) or "none"


def attempts(database_url: str) -> tuple[int, int]:
    """How many attempts were beyond the first, and how many were given back in order."""
    counted_ones = jobs.c.attempt - jobs.c.spared
    query = select(func.sum(counted_ones - 1), func.sum(jobs.c.spared)).where(counted_ones > 0)
    store = Store(database_url)
    with store.reading() as connection:
        reruns, spared = connection.execute(query).one()
    store.close()
    return int(reruns or 0), int(spared or 0)
