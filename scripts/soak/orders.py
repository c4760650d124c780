"""Orders: what the soak's clients ask for, the same for the same seed."""

import base64
import io
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

Kind = Literal["plain", "low", "cancelled", "invalid"]
KINDS: Mapping[Kind, int] = {"plain": 6, "low": 2, "cancelled": 1, "invalid": 1}
"""How often each kind is ordered; low: at low priority, cancelled: given up by its client a moment later."""
PHOTO = Path(__file__).parents[1] / "data" / "astronaut.png"
LONGEST_PAUSE_S = 1.5
PHOTOS = 16
"""Different photos: a request's photo is usually that of others, too, as one face is used again and again."""


@dataclass(frozen=True)
class Menu:
    """Jobs of one kind: the catalog that serves them, their endpoint, and a valid body for any number."""

    catalog: str
    endpoint: str
    body: Callable[[int], dict[str, Any]]


@dataclass(frozen=True)
class Order:
    """One request as its client plans it.

    Args:
        key: its Idempotency-Key, and the path under which its webhook arrives.
        webhook: whether its client wants to be told.
        twice: whether it is sent once more after its acknowledgement, as by a client that lost the answer.
        pause_s: seconds from the acknowledgement to the cancel.
    """

    key: str
    endpoint: str
    body: dict[str, Any]
    kind: Kind
    webhook: bool
    twice: bool
    pause_s: float


def orders(menu: Menu, seed: int) -> Iterator[Order]:
    """An endless, reproducible stream of orders."""
    chance, number = random.Random(seed), 0
    while True:
        number += 1
        [kind] = chance.choices(list(KINDS), list(KINDS.values()))
        body = menu.body(number)
        if kind == "invalid":
            del body["prompt"]
        yield Order(
            key=f"soak-{seed}-{number}",
            endpoint=menu.endpoint,
            body=body,
            kind=kind,
            webhook=chance.random() < 0.5,
            twice=chance.random() < 0.1,
            pause_s=chance.uniform(0, LONGEST_PAUSE_S),
        )


@cache
def photo(side: int) -> str:
    """The astronaut as a data URI, `side` pixels wide and high."""
    content = io.BytesIO()
    with Image.open(PHOTO) as picture:
        picture.convert("RGB").resize((side, side)).save(content, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def portrait(number: int) -> dict[str, Any]:
    """PuLID on the tiny weights: a real face, real denoising, a small picture of noise."""
    face = {"image_url": photo(240 + number % PHOTOS)}
    return {
        "reference_images": [face],
        "prompt": "portrait",
        "image_size": {"width": 256, "height": 256},
        "seed": number,
    }


def square(number: int) -> dict[str, Any]:
    """A blue square that takes a quarter of a second to a whole one, without torch; those as long are batched."""
    steps, picture = 5 + 5 * (number % 4), photo(64 + number % PHOTOS)
    shape = {"steps": steps, "step_s": 0.05, "kind": f"{steps} steps"}
    return {"prompt": "square", "image_url": picture, "seed": number, **shape}


MENUS: Mapping[str, Menu] = {
    "tiny": Menu("scripts.soak.catalog:CATALOG", "fal-ai/pulid", portrait),
    "painted": Menu("tests.pipelines.published:CATALOG", "test/blue-square", square),
}
