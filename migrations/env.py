"""Alembic's entry: migrations run as an administrator, who creates the roles and becomes the owner of the tables."""

from alembic import context
from sqlalchemy import NullPool, create_engine

from models_db.tables import Table

# Behind a migration that waits for a table everybody waits, who may wait for 5 s. `runtime.migrations` tries again.
PATIENCE = "-c lock_timeout=3s"


def run() -> None:
    """Run the asked revisions in one transaction on `sqlalchemy.url`."""
    url = context.config.get_main_option("sqlalchemy.url")
    if url is None:
        message = "Set sqlalchemy.url, or call runtime.migrations, which does."
        raise RuntimeError(message)
    engine = create_engine(url, poolclass=NullPool, connect_args={"options": PATIENCE})
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Table.metadata, compare_server_default=True)
        with context.begin_transaction():
            context.run_migrations()


run()
