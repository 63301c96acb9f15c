"""`make bench-audit`: questions to ten million events, what writing and sealing take, and whether tampers are found.

On a PostgreSQL of its own. Events are written in bulk, spread over 36 months, and sealed by the real sealer as of then;
everything that is timed goes through the service's own functions, commit included.
"""

import argparse
import json
import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import md5
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from benchmarks import audit_tampers, machine
from benchmarks.audit_database import Database, build, server, size_bytes
from benchmarks.audit_rows import Shape
from benchmarks.audit_tampers import Target, tampered
from benchmarks.process import ROOT
from benchmarks.reports import say
from benchmarks.summaries import percentile
from benchmarks.tables import table
from domain import access
from domain.access import Principal, PrincipalType, Role
from domain.audit import AuditEvent
from evidence.database import DatabaseTrail, verify_database
from evidence.verify import conclude, verify_chain
from models_db import sessions
from services import audit, audit_queries, sealing
from services.audit_queries import QUERIES, Asked, Parameter, SavedQuery, Source

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    Counted = Synchronized[int]


@dataclass(frozen=True)
class Pace:
    """How many events a second, by how many clients."""

    per_s: float
    clients: int


RESULTS, PAGE = ROOT / "benchmarks" / "results" / "audit", ROOT / "docs" / "audit.md"
BEGIN, END = "<!-- bench-audit: begin -->", "<!-- bench-audit: end -->"
AUDITOR = Principal(PrincipalType.SERVICE_ACCOUNT, UUID(int=1), UUID(int=2), None, frozenset({Role.AUDITOR}))
BESIDE = Pace(per_s=500, clients=4)


def main() -> None:
    """Build, measure, write the results and the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--months", type=int, default=36)
    parser.add_argument("--asked", type=int, default=30, help="times each question")
    parser.add_argument("--tampers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of writing at full speed")
    parser.add_argument("--folder", type=Path, default=None, help="where the database lies meanwhile")
    parser.add_argument("--keep", action="store_true", help="write results and table")
    options = parser.parse_args()
    with server(options.folder) as url:
        shape = Shape(
            options.events, options.months, departments=20, batch=max(1000, min(20_000, options.events // 20))
        )
        measured = _measure(build(url, "trail", shape), options)
        small = Shape(20_000, 6, departments=20, batch=1000)
        measured["tampers"] = _tamper(build(url, "small", small), options.tampers)
    say(_told(measured))
    if options.keep:
        _write(measured)


def _measure(database: Database, options: argparse.Namespace) -> dict[str, object]:
    opened, load = database.checkpoints(), os.getloadavg()
    say(f"{len(opened)} checkpoints; asking")
    idle = _ask_all(database, options.asked)
    # Each question was an event, and nothing sealed beside them: that is not the lag to be measured.
    with database.app() as engine:
        _seal_rest(engine)
    with _sealing(database), _writing(database, BESIDE) as written, _lags(database) as lags:
        begun = time.monotonic()
        beside = _ask_all(database, options.asked)
        # Long enough for the sealer to have had its turns.
        time.sleep(max(0.0, 15 - (time.monotonic() - begun)))
        rate = written() / (time.monotonic() - begun)
    full = {clients: _full_speed(database, clients, options.seconds) for clients in (1, 4, 16)}
    with database.app() as engine:
        _seal_rest(engine)
    begun = time.monotonic()
    report = verify_database(database.verifying_url, opened, processes=len(os.sched_getaffinity(0)))
    verified_s = time.monotonic() - begun
    return {
        "hardware": machine.hardware(None, None).model_dump(),
        "load_before": load[0], "load_after": os.getloadavg()[0],
        "events": database.shape.events, "months": database.shape.months, "build_s": database.build_s,
        "bytes": size_bytes(database),
        "idle_ms": idle, "beside_ms": beside, "beside_per_s": rate,
        "writes_per_s": full, "seal_lag_p95_s": percentile(lags, 95), "seal_lag_max_s": max(lags),
        "verify": {
            "seconds": verified_s, "events": report.events, "seals": report.seals, "unsealed": report.unsealed,
            "checkpoints": report.checkpoints, "faults": len(report.findings),
        },
    }  # fmt: skip


# --- questions --------------------------------------------------------------------------------------------------------


def _ask_all(database: Database, times: int) -> dict[str, dict[str, float]]:
    chance = random.Random(10)  # noqa: S311 - a benchmark
    found = {}
    with database.app() as engine:
        for query in QUERIES.values():
            took = [_ask(engine, query, _asked(database, query, chance)) for _ in range(times + 1)][1:]
            found[query.name] = {
                "p50": percentile(took, 50), "p95": percentile(took, 95), "max": max(took),
            }  # fmt: skip
            say(f"  {query.name}: p50 {found[query.name]['p50']:.1f} ms, p95 {found[query.name]['p95']:.1f} ms")
    return found


def _ask(engine: Engine, query: SavedQuery, asked: Asked) -> float:
    """In ms, from the session's opening to its commit: the reading is recorded, and then sealed."""
    begun = time.perf_counter()
    with _session(engine, query, asked) as session:
        audit_queries.ask(session, AUDITOR, query, asked)
    return (time.perf_counter() - begun) * 1000


@contextmanager
def _session(engine: Engine, query: SavedQuery, asked: Asked) -> Iterator[Session]:
    if query.source is Source.DOMAIN and asked.department is not None:
        with sessions.department_session(engine, asked.department) as session:
            yield session
    else:
        with sessions.auditor_session(engine) as session:
            yield session


def _asked(database: Database, query: SavedQuery, chance: random.Random) -> Asked:
    """About somebody or something that there is, drawn evenly; in the largest departments where it is one's."""
    drawn = database.writer.drawn_from
    counts = {
        Parameter.FILE: ("file", "files"), Parameter.VERSION: ("version", "versions"),
        Parameter.ADAPTER: ("adapter", "adapters"), Parameter.ACTOR: ("user", "people"),
    }  # fmt: skip
    subject: UUID | str | None = None
    if query.needs is Parameter.REQUEST:
        subject = "req_" + md5(f"request{chance.randrange(database.shape.events) + 1}".encode()).hexdigest()  # noqa: S324
    elif query.needs is not None:
        kind, many = counts[query.needs]
        subject = _id(kind, chance.randrange(int(str(drawn[many]))))
    of_one = query.source is Source.DOMAIN or query.name == "not_done"
    return Asked(subject, _id("department", chance.randrange(4)) if of_one else None)


def _id(kind: str, number: int) -> UUID:
    """As `audit_rows` makes them."""
    return UUID(md5(f"{kind}{number}".encode()).hexdigest())  # noqa: S324 - no secret


# --- what runs beside -------------------------------------------------------------------------------------------------


@contextmanager
def _process(work: Callable[..., None], *arguments: object) -> Iterator[None]:
    """A process of its own for the length of the block, which is told to stop at its end."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=work, args=(*arguments, stop))
    process.start()
    yield
    stop.set()
    process.join(60)


@contextmanager
def _sealing(database: Database) -> Iterator[None]:
    """The sealer as a process of its own, from the end of its first round on."""
    begun = multiprocessing.get_context("spawn").Event()
    with _process(_seal_on, database.app_url, begun):
        if not begun.wait(60):
            raise TimeoutError("the sealer made no round")
        yield


def _seal_on(url: str, begun: Event, stop: Event) -> None:
    """As the sealer does: a round, and a second's rest when nothing is left."""
    engine = sessions.connect(url)
    while not stop.is_set():
        with sessions.sealer_session(engine) as session:
            made = sealing.seal(session)
        begun.set()
        if made is None or made.is_last:
            stop.wait(1)


def _seal_rest(engine: Engine) -> None:
    is_last = False
    while not is_last:
        with sessions.sealer_session(engine) as session:
            made = sealing.seal(session)
        is_last = made is not None and made.is_last


@contextmanager
def _writing(database: Database, pace: Pace) -> Iterator[Callable[[], int]]:
    """Events at that rate, one a transaction, through the service's own function; gives how many so far."""
    counted = multiprocessing.get_context("spawn").Value("q", 0)
    with _process(_write_on, database.app_url, pace, counted):
        # Not before it is at work.
        while counted.value == 0:
            time.sleep(0.05)
        before = counted.value
        yield lambda: counted.value - before


def _write_on(url: str, pace: Pace, counted: "Counted", stop: Event) -> None:
    per_s, clients = pace.per_s, pace.clients
    engine = sessions.connect(url, pool_size=clients)

    def client() -> None:
        due = time.monotonic()
        while not stop.is_set():
            due += clients / per_s
            with sessions.platform_session(engine) as session:
                audit.record(session, access.system(None), AuditEvent.JOB_CHECKPOINTED, details={"epoch": 1, "step": 2})
            with counted.get_lock():
                counted.value += 1
            time.sleep(max(0.0, due - time.monotonic()))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def _lags(database: Database) -> Iterator[list[float]]:
    """How far the sealer is behind, ten times a second."""
    lags: list[float] = []
    stop = threading.Event()

    def look() -> None:
        with database.app(1) as engine:
            while not stop.wait(0.1):
                with sessions.platform_session(engine) as session:
                    lags.append(sealing.lag_s(session))

    thread = threading.Thread(target=look)
    thread.start()
    yield lags
    stop.set()
    thread.join()


_APPEND = (
    "SELECT audit_append(NULL, 'system', NULL, NULL, 'job.checkpointed', 'success', NULL, 'job', %s, '{}', NULL, NULL, "
    "'{\"epoch\": 1}')"
)


def _full_speed(database: Database, clients: int, seconds: float) -> float:
    """Events a second, each committed by itself, by so many clients of one process that do nothing else."""
    context = multiprocessing.get_context("spawn")
    counted = context.Value("q", 0)
    halves = min(2, clients)
    processes = [
        context.Process(target=_append_for, args=(_plain(database.app_url), clients // halves, seconds, counted))
        for _ in range(halves)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return float(counted.value / seconds)


def _append_for(url: str, clients: int, seconds: float, counted: "Counted") -> None:
    def client() -> None:
        done = 0
        with psycopg.connect(url, autocommit=True) as connection:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                connection.execute(_APPEND, [UUID(int=done)])
                done += 1
        with counted.get_lock():
            counted.value += done

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _plain(url: str) -> str:
    return url.replace("+psycopg", "")


# --- tampers ----------------------------------------------------------------------------------------------------------


def _tamper(database: Database, times: int) -> dict[str, object]:
    """Tamper at random with a chain of a smaller trail, and verify that chain each time."""
    opened = database.checkpoints()
    kept, chance, found, exact = database.kept(opened), random.Random(1000), Counter[str](), Counter[str]()  # noqa: S311
    with psycopg.connect(database.verifying_url) as superuser:
        chains = sorted(DatabaseTrail(superuser).chains(), key=lambda chain: -len(kept.get(chain, ())))[:8]
        for _ in range(times):
            target = Target.of(superuser, chance.choice(chains))
            kind = chance.choice(audit_tampers.KINDS)
            with tampered(target, kind, chance) as tamper:
                one = verify_chain(DatabaseTrail(superuser), target.chain, opened, kept[target.chain])
                bad = conclude([one], [], len(opened)).first_bad
            found[tamper.kind] += bad is not None
            exact[tamper.kind] += bad is not None and bad.number == tamper.first_bad
        untouched = verify_database(database.verifying_url, opened)
    return {
        "events": database.shape.events, "done": times, "found": sum(found.values()), "exact": sum(exact.values()),
        "by_kind": dict(sorted(found.items())), "faults_in_the_untouched": len(untouched.findings),
    }  # fmt: skip


# --- what is told -----------------------------------------------------------------------------------------------------


def _told(measured: Mapping[str, object]) -> str:
    figures = json.loads(json.dumps(measured))
    idle, beside = figures["idle_ms"], figures["beside_ms"]
    rows = [
        (f"`{name}`", *(f"{each[name][percent]:.1f}" for each in (idle, beside) for percent in ("p50", "p95")))
        for name in idle
    ]
    verified, tampers, sizes = figures["verify"], figures["tampers"], figures["bytes"]
    writes = ", ".join(f"{rate:,.0f} with {clients}" for clients, rate in figures["writes_per_s"].items())
    room = ", ".join(f"{sizes[name] / 1e9:.1f} GB of {name}" for name in ("events", "indexes", "seals"))
    proved = f"{verified['events']:,} events, {verified['seals']:,} seals in {verified['seconds']:.0f} s, "
    tampered_with = f"{tampers['done']:,}, {tampers['found']:,}, {tampers['exact']:,}; untouched: "
    lag = f"{figures['seal_lag_p95_s']:.1f} s, {figures['seal_lag_max_s']:.1f} s"
    loads = f"{figures['load_before']:.1f}, {figures['load_after']:.1f}"
    facts = [
        ("events, months", f"{figures['events']:,}, {figures['months']}"),
        ("size", room),
        ("written and sealed in", f"{figures['build_s']:.0f} s"),
        ("events a second, each committed, by clients", writes),
        ("seal lag beside the writes: p95, longest", lag),
        ("verified against checkpoints", f"{proved}{verified['faults']} faults"),
        ("tampers, found, first event exact", f"{tampered_with}{tampers['faults_in_the_untouched']} faults"),
        ("machine", f"{figures['hardware']['cpu']}, {figures['hardware']['threads']} threads"),
        ("its load before and after", loads),
    ]  # fmt: skip
    head = ("question, in ms", "p50", "p95", "p50 beside writes", "p95 beside writes")
    said = f"Beside writes: {figures['beside_per_s']:.0f} events a second, committed one by one, and the sealer."
    return "\n\n".join((table(head, rows), said, table(("measured", "figure"), facts)))


def _write(measured: Mapping[str, object]) -> None:
    RESULTS.mkdir(exist_ok=True)
    slug = machine.hardware(None, None).slug
    (RESULTS / f"{slug}.json").write_text(json.dumps(measured, indent=2) + "\n")
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{_told(measured)}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
