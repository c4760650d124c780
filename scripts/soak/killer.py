"""Killer: strikes the site at random, in a reproducible order."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Strike = Callable[[random.Random], bool]
"""Returns whether there was anything to hit."""
LOOK_S = 0.2


@dataclass(frozen=True)
class Blow:
    """One way to hurt a site, chosen `weight` times a round.

    Args:
        at_once: whether it may fall on a site that still recovers from the last one. Else it waits until requests are
            answered and a worker is ready: there would be nothing to interrupt, and no job would ever end.
    """

    name: str
    weight: int
    strike: Strike
    at_once: bool = False


@dataclass(frozen=True)
class Havoc:
    """When blows fall: for `seconds` one every `every_s` on average, later when the site still recovers."""

    every_s: float
    seconds: float
    seed: int

    def wreak(self, blows: Sequence[Blow], works: Callable[[], bool], struck: Counter[str], log: Path) -> None:
        """Strike until the time is over. What was hit is counted, and logged with its time."""
        chance, ends_at = random.Random(self.seed), time.monotonic() + self.seconds
        with log.open("a") as lines:
            for blow in shuffled(blows, chance):
                time.sleep(self.every_s * chance.uniform(0.5, 1.5))
                while not blow.at_once and not works() and time.monotonic() < ends_at:
                    time.sleep(LOOK_S)
                if time.monotonic() > ends_at:
                    return
                if blow.strike(chance):
                    struck[blow.name] += 1
                    print(f"{time.strftime('%H:%M:%S')} {blow.name}", file=lines, flush=True)


def shuffled(blows: Sequence[Blow], chance: random.Random) -> Iterator[Blow]:
    """Endless rounds, each in another order: every blow once, and then as often again as its weight says."""
    once, again = list(blows), [blow for blow in blows for _ in range(blow.weight - 1)]
    while True:
        chance.shuffle(once)
        chance.shuffle(again)
        yield from once
        yield from again
