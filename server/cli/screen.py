"""Screen: how the commands speak to a person."""

from datetime import UTC, datetime

from rich.console import Console
from rich.table import Column, Table

console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

WIDEST = 1000
"""Columns of a table that goes to a file or a program."""


def day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def show_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    name, *others = head
    shown = Table(Column(name, no_wrap=True), *others, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*row)
    # A pipe has no width: whoever reads it wants a line per row, and every word whole.
    sheet = (
        console
        if console.is_terminal
        else Console(file=console.file, width=WIDEST, highlight=False, markup=False, emoji=False)
    )
    sheet.print(shown)
