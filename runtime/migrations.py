"""The database's schema and roles, brought up to date by an administrator."""

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from psycopg import Connection, sql
from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import NullPool, create_engine, make_url
from sqlalchemy.exc import OperationalError

from models_db.sessions import APP_ROLE

log = logging.getLogger(__name__)

TRIES, AGAIN_AFTER_S = 20, 1.0
SCRIPTS = Path(__file__).resolve().parent.parent / "migrations"


def alembic_config(admin_url: str) -> Config:
    """Alembic's configuration for our scripts on that database."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    # A percent sign starts an interpolation in Alembic's configuration.
    config.set_main_option("sqlalchemy.url", admin_url.replace("%", "%%"))
    return config


def upgrade(admin_url: str, app_url: str) -> None:
    """Bring the schema to its newest revision, and let the application's role log in with the password of app_url."""
    patiently(partial(command.upgrade, alembic_config(admin_url), "head"))
    password = make_url(app_url).password
    if password is None:
        return
    engine = create_engine(admin_url, poolclass=NullPool)
    with engine.begin() as connection:
        driver: Connection[Any] = connection.connection.dbapi_connection  # type: ignore[assignment]
        # Hashed here: the statement itself may end in the server's log.
        hashed = driver.pgconn.encrypt_password(password.encode(), APP_ROLE.encode(), b"scram-sha-256").decode()
        driver.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(APP_ROLE), sql.Literal(hashed)))


def patiently(migrate: Callable[[], None]) -> None:
    """Migrate beside people at work: again where somebody held a table for too long. A try leaves all or nothing."""
    for left in reversed(range(TRIES)):
        try:
            migrate()
        except OperationalError as error:
            if not (left and isinstance(error.orig, LockNotAvailable | DeadlockDetected)):
                raise
            log.warning("a table is in use; the migration is tried again")
            time.sleep(AGAIN_AFTER_S)
        else:
            return
