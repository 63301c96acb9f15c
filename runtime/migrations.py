"""The database's schema and roles, brought up to date by an administrator."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from psycopg import Connection, sql
from sqlalchemy import NullPool, create_engine, make_url

from models_db.sessions import APP_ROLE

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
    command.upgrade(alembic_config(admin_url), "head")
    password = make_url(app_url).password
    if password is None:
        return
    engine = create_engine(admin_url, poolclass=NullPool)
    with engine.begin() as connection:
        driver: Connection[Any] = connection.connection.dbapi_connection  # type: ignore[assignment]
        # Hashed here: the statement itself may end in the server's log.
        hashed = driver.pgconn.encrypt_password(password.encode(), APP_ROLE.encode(), b"scram-sha-256").decode()
        driver.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(APP_ROLE), sql.Literal(hashed)))
