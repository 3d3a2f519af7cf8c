"""How Alembic reaches the database: by the connection that it is given."""

from alembic import context

from facecrafter.study.records import METADATA

# SQLite cannot alter columns in place: batch mode copies the table.
context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)

with context.begin_transaction():
    context.run_migrations()
