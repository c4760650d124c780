"""The tables' history (alembic), run by the program itself at start: nobody calls alembic by hand."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from server.queue.store import Store, StoreError

PLACE_IN_LINE = 0x7E7A1C09
"""Any constant: on PostgreSQL, the advisory lock under which one process at a time migrates."""
LONGEST = "10min"
"""How long it waits there for the others."""


def create_tables(database_url: str) -> None:
    """Make the tables, or bring them to this program's version. Not part of Queue, so that serving needs no alembic.

    Raises:
        StoreError: they belong to a newer program, or the database is damaged or does not answer. Nothing is changed.
    """
    store = Store(database_url)
    try:
        migrate(store)
    except DBAPIError as error:
        raise StoreError(
            f"the queue at {store.url.render_as_string()} cannot be used ({error.orig}): check that it can be reached "
            "and written; if it is damaged, restore a backup or move it away"
        ) from error
    finally:
        store.close()


def migrate(store: Store) -> None:
    """See create_tables."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    with store.writing_durably() as connection:
        if not store.is_sqlite:
            # Another process may be making an index of a long queue, and loading the history takes a moment, too.
            for limit in ("lock_timeout", "idle_in_transaction_session_timeout"):
                connection.execute(text(f"SET LOCAL {limit} = '{LONGEST}'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:place)"), {"place": PLACE_IN_LINE})
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except (CommandError, ResolutionError) as error:
            raise StoreError(
                f"the queue at {store.url.render_as_string()} was written by another version of this program "
                f"({error}): install that version or newer, or restore a backup"
            ) from error
