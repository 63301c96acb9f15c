"""The schema goes up, down and up again, beside another database, and without a superuser."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from alembic import command
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import ProgrammingError

from models_db.sessions import APP_ROLE
from runtime import migrations
from runtime.embedded import EmbeddedServices

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server() -> Iterator[URL]:
    """A server without our roles, which belong to all of its databases: the URL of its administrator."""
    with TemporaryDirectory(prefix="tsugiki-tests-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedServices(Path(folder) / "services", durable=False) as services:
            yield make_url(services.database_admin_url).set(drivername="postgresql+psycopg")


def _execute(url: URL, *statements: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def _created_in(url: URL) -> set[str]:
    """Tables, sequences, functions and types that are neither PostgreSQL's nor Alembic's."""
    engine = create_engine(url)
    with engine.connect() as connection:
        names = connection.execute(
            text("""
                SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
                UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
                UNION SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace
            """)
        )
        found = {name for name in names.scalars() if "alembic_version" not in name}
    engine.dispose()
    return found


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _app(admin: URL) -> URL:
    return admin.set(username=APP_ROLE, password="100% secret 'quoted'")


def _upgrade(admin: URL) -> None:
    migrations.upgrade(_shown(admin), _shown(_app(admin)))


def test_up_down_and_up_again_leaves_the_schema_the_code_describes(server: URL) -> None:
    config = migrations.alembic_config(_shown(server))
    _upgrade(server)
    command.check(config)
    after_first = _created_in(server)
    command.downgrade(config, "base")
    assert _created_in(server) == set()
    _upgrade(server)
    command.check(config)
    assert _created_in(server) == after_first


def test_upgrading_again_changes_nothing_but_the_applications_password(server: URL) -> None:
    _upgrade(server)
    before = _created_in(server)
    changed = _app(server).set(password="changed")
    migrations.upgrade(_shown(server), _shown(changed))
    assert _created_in(server) == before
    _execute(changed, "SELECT 1")


def test_the_application_cannot_migrate(server: URL) -> None:
    _upgrade(server)
    with pytest.raises(ProgrammingError, match="permission denied"):
        command.downgrade(migrations.alembic_config(_shown(_app(server))), "base")


def test_databases_of_one_server_migrate_at_once(server: URL) -> None:
    databases = [server.set(database=f"site_{number}") for number in range(4)]
    _execute(server, *(f"CREATE DATABASE {url.database}" for url in databases))
    # Processes, as in life: Alembic keeps its context in a global variable.
    program = "import sys; from runtime.migrations import upgrade; upgrade(*sys.argv[1:])"
    started = [
        subprocess.Popen([sys.executable, "-c", program, _shown(url), _shown(_app(url))], cwd=ROOT) for url in databases
    ]
    assert [process.wait(timeout=60) for process in started] == [0] * len(databases)
    assert len({frozenset(_created_in(url)) for url in databases}) == 1


def test_an_administrator_who_is_no_superuser_can_migrate_up_and_down(server: URL) -> None:
    _execute(
        server,
        "CREATE ROLE deployer LOGIN CREATEROLE PASSWORD 'deployer'",
        "CREATE DATABASE site OWNER deployer",
    )
    deployer = server.set(username="deployer", password="deployer", database="site")
    config = migrations.alembic_config(_shown(deployer))
    _upgrade(deployer)
    command.check(config)
    _execute(_app(deployer), "SELECT 1 FROM list_departments()")
    command.downgrade(config, "base")
    _upgrade(deployer)
