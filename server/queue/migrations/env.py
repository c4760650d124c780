"""Alembic's entry: runs the steps on the connection that `migrate` opened, in its transaction."""

from alembic import context

from server.queue.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
