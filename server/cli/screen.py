"""Screen: how the commands speak to a person."""

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


def day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def show_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    shown = Table(*head, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
