"""`python -m benchmarks.claims`: how long a claim takes beside ten thousand queued jobs, by several workers at once.

On a PostgreSQL of its own, with as many ended leases as a busy day leaves. Each worker claims, and claims again after a
random time, as if its jobs lasted a second: far more often than workers do. What is timed is the whole transaction,
the wait for the other claimers included.
"""

import argparse
import random
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from uuid import UUID, uuid4

from sqlalchemy import URL, Engine, create_engine, func, insert, make_url, text
from sqlalchemy.orm import Session

from benchmarks.contract import NO_DIGEST, Job
from benchmarks.reports import say
from benchmarks.summaries import percentile
from domain.jobs import JobState
from models_db import jobs, sessions
from models_db.base_models import BaseModel
from models_db.departments import Department
from models_db.sessions import APP_ROLE
from runtime import migrations
from runtime.embedded import EmbeddedServices
from services import claims

HALF_LIFE_S = 86_400.0
DEPARTMENTS, ENDED_LEASES = 20, 2_000
PASSWORD = "of this benchmark alone"  # noqa: S105 - of a server that lives as long as this process


def main() -> None:
    """Fill a database, claim from it, tell how long each claim took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__.partition("\n")[0])
    parser.add_argument("--queued", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--claims", type=int, default=50, help="of each worker")
    parser.add_argument("--every-s", type=float, default=1.0, help="seconds between a worker's claims, on average")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tsugiki-claims-") as folder:
        Path(folder).chmod(0o711)
        with EmbeddedServices(Path(folder) / "services", durable=True) as services:
            admin = make_url(services.database_admin_url).set(drivername="postgresql+psycopg")
            app = admin.set(username=APP_ROLE, password=PASSWORD)
            migrations.upgrade(_shown(admin), _shown(app))
            _fill(create_engine(admin), options.queued)
            took_s = _claim(sessions.connect(_shown(app), pool_size=options.workers), options)
    told = " ms, ".join(f"p{percent} {percentile(took_s, percent) * 1e3:.1f}" for percent in (50, 95, 99))
    say(f"{len(took_s)} claims by {options.workers} workers beside {options.queued:,} queued jobs: {told} ms")
    say(f"median {median(took_s) * 1e3:.1f} ms, longest {max(took_s) * 1e3:.1f} ms")


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _fill(admin: Engine, queued: int) -> None:
    departments = [uuid4() for _ in range(DEPARTMENTS)]
    with Session(admin) as session, session.begin():
        # Rows that nothing here looks at are left out: files, people.
        session.execute(text("SET LOCAL session_replication_role = replica"))
        base_model = BaseModel(name="base", state="ready", digest=NO_DIGEST, source="", facts={})
        session.add(base_model)
        session.execute(insert(Department), [{"id": each, "name": each.hex} for each in departments])
        session.flush()
        spec = Job("job", ["row"]).plan.spec.model_dump(mode="json")
        session.execute(
            insert(jobs.Job), [_job(departments[number % DEPARTMENTS], base_model.id, spec) for number in range(queued)]
        )
        minutes = [
            {"department_id": departments[number % DEPARTMENTS], "ago": number} for number in range(ENDED_LEASES)
        ]
        session.execute(
            insert(jobs.Lease).values(
                worker="w", acquired_at=func.now() - text("make_interval(mins => :ago + 5)"), expires_at=func.now(),
                ended_at=func.now() - text("make_interval(mins => :ago)"),
            ),
            minutes,
        )  # fmt: skip
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def _job(department: UUID, base_model: UUID, spec: dict[str, object]) -> dict[str, object]:
    return {
        "department_id": department, "state": JobState.QUEUED, "base_model_id": base_model, "training_file_id": uuid4(),
        "adapter_name": "default", "spec": spec, "hyperparameters": {}, "job_metadata": {}, "request_sha256": "",
        "submitted_by": department, "submitted_by_type": "user",
    }  # fmt: skip


def _claim(database: Engine, options: argparse.Namespace) -> list[float]:
    took_s: list[float] = []
    barrier = threading.Barrier(options.workers)

    def work(worker: str) -> None:
        chance = random.Random(worker)  # noqa: S311 - the same pauses every time
        barrier.wait()
        for _ in range(options.claims):
            time.sleep(chance.uniform(0, 2 * options.every_s))
            began = time.perf_counter()
            with sessions.platform_session(database) as session:
                held = claims.claim_next(session, worker=worker, lease_s=60, half_life_s=HALF_LIFE_S)
            took_s.append(time.perf_counter() - began)
            if not held:
                raise RuntimeError("nobody waits, though there are jobs for all claims")

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(options.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(took_s) != options.workers * options.claims:
        raise RuntimeError("a claim failed")
    return took_s


if __name__ == "__main__":
    main()
