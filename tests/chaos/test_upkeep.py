"""What those who look after a service do to it while jobs run: restart a server, bring the schema up to date."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from chaos.installation import Installation, Shape
from chaos.workload import Workload
from runtime import migrations
from tests.chaos.conftest import await_

Service = tuple[Installation, Workload]
# `python -m chaos` does it many times more, and to the other servers.
RESTARTS = 2
HEAD = 'from alembic import op\nrevision, down_revision = "later", {head!r}\n'
# As every release may, it adds to each table there is, and to their number.
ADDS = f"""{HEAD}
from models_db.tables import Table
def upgrade():
    for table in Table.metadata.tables:
        op.execute(f"ALTER TABLE {{{{table}}}} ADD COLUMN of_later text NOT NULL DEFAULT 'x'")
    op.execute("CREATE INDEX ix_jobs_of_later ON jobs (of_later)")
    op.execute("CREATE TABLE later (id uuid PRIMARY KEY, job_id uuid NOT NULL REFERENCES jobs (id))")
def downgrade():
    op.execute("DROP TABLE later")
    for table in Table.metadata.tables:
        op.execute(f"ALTER TABLE {{{{table}}}} DROP COLUMN of_later")
"""
# What no release may do: processes of the one before still use it.
TAKES_AWAY = f"""{HEAD}
def upgrade():
    op.execute("ALTER TABLE jobs RENAME progress TO progress_of_later")
def downgrade():
    op.execute("ALTER TABLE jobs RENAME progress_of_later TO progress")
"""
RUNNING = "SELECT count(*) FROM jobs WHERE state = 'running'"
OVERDUE = """
    SELECT count(*) FROM jobs j JOIN leases l ON l.id = j.lease_id
    WHERE j.state = 'running' AND l.expires_at < clock_timestamp()
"""
TRIED_AGAIN = "SELECT count(*) FROM jobs WHERE epoch > 1"


@pytest.fixture(scope="module")
def service(install: Callable[..., Service]) -> Service:
    # As soon as the jobs have ended they are looked at, and not what is still to be told.
    return install(Shape(workers=2, lease_s=10.0), hears=False)


def asked(installation: Installation, statement: str) -> int:
    with installation.checker.engine.connect() as connection:
        return int(connection.execute(text(statement)).scalar_one())


def end_all(service: Service, *, within_s: float) -> None:
    installation, workload = service
    await_(lambda: not installation.checker.unfinished(), within_s=within_s, what="the jobs end")
    assert installation.checker.check(workload.expected) == []


def test_jobs_submitted_around_a_restart_of_valkey_end_within_30_s(service: Service) -> None:
    installation, workload = service
    for _ in range(RESTARTS):
        assert workload.submit()
        installation.restart_server("valkey")
        assert workload.submit()
        end_all(service, within_s=30)


def with_later(installation: Installation, folder: Path, revision: str) -> Config:
    """Our migrations, and one after them."""
    admin = installation.settings.database_admin_url
    assert admin
    config = migrations.alembic_config(admin.get_secret_value().replace("postgresql:", "postgresql+psycopg:", 1))
    head = ScriptDirectory.from_config(config).get_current_head()
    (folder / "later.py").write_text(revision.format(head=head))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", f"{migrations.SCRIPTS / 'versions'}\n{folder}")
    return config


def test_a_migration_that_adds_costs_jobs_that_run_no_attempt(service: Service, tmp_path: Path) -> None:
    installation, workload = service
    config, before = with_later(installation, tmp_path, ADDS), asked(installation, TRIED_AGAIN)
    up, down = partial(command.upgrade, config, "later"), partial(command.downgrade, config, "-1")
    for migrate in (up, down, up, down):
        for _ in range(3):
            assert workload.submit()
        await_(lambda: asked(installation, RUNNING), within_s=30, what="a job runs")
        migrations.patiently(migrate)
    end_all(service, within_s=120)
    assert asked(installation, TRIED_AGAIN) == before


def test_one_that_takes_away_is_noticed_by_jobs_that_run_and_loses_none(service: Service, tmp_path: Path) -> None:
    """The control of the one before."""
    installation, workload = service
    config, before = with_later(installation, tmp_path, TAKES_AWAY), asked(installation, TRIED_AGAIN)
    assert workload.submit()
    await_(lambda: asked(installation, RUNNING), within_s=30, what="a job runs")
    migrations.patiently(partial(command.upgrade, config, "later"))
    await_(lambda: asked(installation, OVERDUE), within_s=30, what="its worker gets no further")
    migrations.patiently(partial(command.downgrade, config, "-1"))
    end_all(service, within_s=120)
    assert asked(installation, TRIED_AGAIN) == before + 1
