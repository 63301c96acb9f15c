"""Two people who want different things of one version or one alias, at the same moment, many times over.

Threads of their own, on PostgreSQL, through the services. What is looked for is read from the tables by statements that
know nothing of the services; the controls show that they find what they are there to find.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, create_engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, make_transient

from domain.access import Principal, PrincipalType, Role
from domain.approvals import Decision
from domain.ids import IdKind, parse_id
from domain.refusals import AlreadyDecided, NotFound, StaleVersion, VersionNotApproved
from models_db.adapters import Adapter, AdapterVersion, Alias, AliasMove
from models_db.jobs import Job
from runtime.wiring import Runtime
from services import aliases, approvals, versions
from services.aliases import Expected
from services.approvals import Evidence
from tests.integration.api.governed import Governed
from tests.integration.conftest import Database

RACES = 200
PROTECTED = frozenset({"production"})
LIVES = timedelta(days=1)

# Each names what must not be, a row each time it is.
ILLEGAL = {
    "an alias stands for what is not served": """
        SELECT a.name || ' stands for ' || v.number || ', which is ' || v.state
        FROM aliases a JOIN adapter_versions v ON v.id = a.version_id
        WHERE v.state NOT IN ('candidate', 'approved') OR v.deleted_at IS NOT NULL
    """,
    "what was revoked is something else": """
        SELECT v.number || ' is ' || v.state FROM adapter_versions v WHERE v.state <> 'revoked' AND EXISTS (
            SELECT FROM audit_events e WHERE e.resource_id = v.id AND e.action = 'adapter.version.revoked')
    """,
    "what is approved was approved by nobody": """
        SELECT v.number::text FROM adapter_versions v WHERE v.state = 'approved' AND NOT EXISTS (
            SELECT FROM approval_decisions d WHERE d.version_id = v.id AND d.decision = 'approve')
    """,
    "somebody is asked about what is decided": """
        SELECT v.number::text FROM approval_requests r JOIN adapter_versions v ON v.id = r.version_id
        WHERE r.state = 'pending' AND v.state <> 'candidate'
    """,
    "a request and the trail say different things": """
        SELECT v.number || ': ' || r.state FROM approval_requests r JOIN adapter_versions v ON v.id = r.version_id
        WHERE (r.state = 'approved') <> EXISTS (
            SELECT FROM audit_events e WHERE e.resource_id = v.id AND e.action = 'adapter.version.approved')
    """,
    "an alias is not where its last move led": """
        SELECT m.name || ' of ' || m.adapter_id FROM (
            SELECT DISTINCT ON (adapter_id, name) * FROM alias_moves ORDER BY adapter_id, name, number DESC) m
        LEFT JOIN aliases a ON a.adapter_id = m.adapter_id AND a.name = m.name
        WHERE a.version_id IS DISTINCT FROM m.version_id
    """,
    "a move began where the one before did not end": """
        SELECT name || ', move ' || number FROM (
            SELECT name, number, from_version_id, lag(version_id) OVER alias AS before FROM alias_moves
            WINDOW alias AS (PARTITION BY adapter_id, name ORDER BY number)) m
        WHERE from_version_id IS DISTINCT FROM before
    """,
}


def illegal(connection: Connection) -> dict[str, list[str]]:
    """What must not be, and is."""
    found = {name: list(connection.execute(text(statement)).scalars()) for name, statement in ILLEGAL.items()}
    return {name: rows for name, rows in found.items() if rows}


@dataclass
class Registry:
    """An adapter, people who may do everything between them, and the superuser who looks."""

    runtime: Runtime
    department: UUID
    adapter: UUID
    first: UUID
    look: Connection

    def person(self, role: Role) -> Principal:
        return Principal(PrincipalType.USER, uuid4(), None, self.department, frozenset({role}))

    def session(self) -> Any:
        return self.runtime.department(self.department)

    def candidates(self, number: int) -> list[UUID]:
        """So many more versions, each of a job of its own: copies of the first."""
        made = []
        with self.session() as session:
            adapter = session.get_one(Adapter, self.adapter, with_for_update=True)
            for _ in range(number):
                version = session.get_one(AdapterVersion, self.first)
                job = _copy(session, session.get_one(Job, version.job_id), idempotency_key=None)
                changed = {"number": adapter.next_number, "job_id": job.id, "model_name": uuid4().hex}
                made.append(_copy(session, version, **changed, state="candidate", state_changed_at=None).id)
                adapter.next_number += 1
        return made

    def illegal(self) -> dict[str, list[str]]:
        found = illegal(self.look)
        self.look.rollback()
        return found


def _copy(session: Session, row: Any, **changed: object) -> Any:
    session.expunge(row)
    make_transient(row)
    row.id = None
    for name, value in changed.items():
        setattr(row, name, value)
    session.add(row)
    session.flush()
    return row


@pytest.fixture
def registry(governed: Governed, runtime: Runtime, database: Database, request: Any) -> Iterator[Registry]:
    version = governed.train(f"race-{request.node.name[-40:].strip('_')}")
    department = parse_id(IdKind.DEPARTMENT, governed.department.id)
    first = parse_id(IdKind.ADAPTER_VERSION, version["id"])
    with runtime.department(department) as session:
        adapter = session.get_one(AdapterVersion, first).adapter_id
    engine = create_engine(database.admin_url)
    with engine.connect() as look:
        yield Registry(runtime, department, adapter, first, look)
    engine.dispose()


def race(one: Callable[[], object], other: Callable[[], object], *, first_s: float) -> list[object]:
    """Do both at once, the first so much earlier, or later; what each came to: a value, or what it was refused with."""
    start, lead = threading.Barrier(2), threading.Event()
    ended: list[object] = [None, None]

    def after(place: int, wait_s: float, act: Callable[[], object]) -> None:
        start.wait()
        lead.wait(max(0.0, wait_s))
        try:
            ended[place] = act()
        except Exception as error:  # noqa: BLE001 - the test looks at what it is
            ended[place] = error

    waits = ((0, -first_s, one), (1, first_s, other))
    threads = [threading.Thread(target=after, args=each) for each in waits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


# --- moves in pairs ---------------------------------------------------------------------------------------------------


def test_of_two_who_move_an_alias_at_once_one_is_refused(registry: Registry) -> None:
    rng, winners = random.Random(3), Counter[int]()
    numbers = [1, *range(2, 4)]
    registry.candidates(2)
    admin = registry.person(Role.DEPARTMENT_ADMIN)
    _move(registry, admin, 1, Expected(None))
    current = 1
    for _ in range(RACES):
        expected = Expected(_etag(registry))
        wanted = [number for number in numbers if number != current]
        rng.shuffle(wanted)
        moves = [partial(_move, registry, admin, number, expected) for number in wanted]
        ended = race(*moves, first_s=rng.uniform(-0.005, 0.005))
        refused = [each for each in ended if isinstance(each, Exception)]
        assert [type(each) for each in refused] == [StaleVersion], ended
        current = next(each for each in ended if isinstance(each, int))
        winners[ended.index(current)] += 1
    assert winners.total() == RACES
    # It was a race: either won often.
    assert min(winners[0], winners[1]) > RACES / 20, winners
    with registry.session() as session:
        moves_made = session.scalars(
            select(AliasMove).where(AliasMove.name == "staging", AliasMove.adapter_id == registry.adapter)
            .order_by(AliasMove.number)
        ).all()  # fmt: skip
    assert len(moves_made) == RACES + 1
    assert all(after.from_version_id == before.version_id for before, after in pairwise(moves_made))
    assert registry.illegal() == {}


def _move(registry: Registry, principal: Principal, number: int, expected: Expected) -> int:
    with registry.session() as session:
        adapter = session.get_one(Adapter, registry.adapter)
        moved = aliases.move(
            session, principal, adapter, "staging", version=number, expected=expected, protected=PROTECTED
        )
        return moved.version.number


def _etag(registry: Registry) -> str:
    with registry.session() as session:
        adapter = session.get_one(Adapter, registry.adapter)
        return aliases.get(session, registry.person(Role.VIEWER), adapter, "staging").etag


def test_control_without_lock_and_condition_a_move_is_lost_and_that_is_found(registry: Registry) -> None:
    second, third = registry.candidates(2)
    _move(registry, registry.person(Role.DEPARTMENT_ADMIN), 1, Expected(None))
    assert registry.illegal() == {}
    both_have_read = threading.Barrier(2)

    def move_as_if_alone(version: UUID) -> None:
        with registry.session() as session:
            of_alias = Alias.adapter_id == registry.adapter, Alias.name == "staging"
            before = session.scalars(select(Alias.version_id).where(*of_alias)).one()
            both_have_read.wait()
            move = AliasMove(
                department_id=registry.department, adapter_id=registry.adapter, name="staging", kind="moved",
                from_version_id=before, version_id=version, moved_by_type="system",
            )  # fmt: skip
            session.add(move)
            session.flush()
            moving = text("UPDATE aliases SET version_id = :version, move_id = :move WHERE adapter_id = :adapter"
                          " AND name = 'staging'")  # fmt: skip
            session.execute(moving, {"version": version, "move": move.id, "adapter": registry.adapter})

    ended = race(lambda: move_as_if_alone(second), lambda: move_as_if_alone(third), first_s=0)
    assert ended == [None, None]
    assert "a move began where the one before did not end" in registry.illegal()
    _forget_moves(registry)


def _forget_moves(registry: Registry) -> None:
    """Take what a control did out of the way of the tests after it."""
    for table in ("aliases", "alias_moves"):
        registry.look.execute(text(f"DELETE FROM {table} WHERE adapter_id = :id"), {"id": registry.adapter})  # noqa: S608
    registry.look.commit()


# --- approve against revoke -------------------------------------------------------------------------------------------


# Each of 200 is several transactions, which a busy machine takes its time for.
@pytest.mark.timeout(900)
def test_approved_and_put_into_service_against_revoked(registry: Registry) -> None:
    """Whichever is first, in the end it is revoked, and no alias stands for it."""
    rng, ends, people = random.Random(4), Counter[str](), People.of(registry)
    first, *others = registry.candidates(1 + RACES)
    asked = people.request_all([first, *others])
    began = time.monotonic()
    people.approve_and_serve(first, *asked[first])()
    took_s = time.monotonic() - began
    for version in others:
        approve = people.approve_and_serve(version, *asked[version])
        # So far apart that the revocation comes before the other's first step, after the last, and anywhere between.
        ended = race(approve, people.revoke(version), first_s=rng.uniform(-0.4, 1.6) * took_s)
        assert ended[1] == "revoked", ended
        ends[ended[0] if isinstance(ended[0], str) else type(ended[0]).__name__] += 1
    with registry.session() as session:
        states = select(AdapterVersion.state).where(AdapterVersion.id.in_(others)).distinct()
        assert session.scalars(states).all() == ["revoked"]
    assert set(ends) <= {"served", AlreadyDecided.__name__, VersionNotApproved.__name__}, ends
    # It was a race: each order came about often.
    assert min(ends["served"], ends[AlreadyDecided.__name__]) > RACES / 20, ends
    assert registry.illegal() == {}


@dataclass(frozen=True)
class People:
    """Who asks, who approves, and who moves aliases and revokes."""

    registry: Registry
    trainer: Principal
    approver: Principal
    admin: Principal

    @classmethod
    def of(cls, registry: Registry) -> "People":
        roles = (Role.TRAINER, Role.APPROVER, Role.DEPARTMENT_ADMIN)
        return cls(registry, *(registry.person(role) for role in roles))

    def request_all(self, wanted: list[UUID]) -> dict[UUID, tuple[UUID, str]]:
        """A request to approve each of the versions, and the digest that it is about."""
        asked = {}
        with self.registry.session() as session:
            for version in wanted:
                found = session.get_one(AdapterVersion, version)
                made = approvals.request(session, self.trainer, found, Evidence("", ()), lives=LIVES)
                asked[version] = made.request.id, found.digest
        return asked

    def approve_and_serve(self, version: UUID, asked: UUID, digest: str) -> Callable[[], str]:
        """Approve it, then put it into production whatever stands there: who is refused for being late looks again."""

        def act() -> str:
            with self.registry.session() as session:
                approvals.decide(session, self.approver, asked, Decision.APPROVE, digest=digest, comment="")
            while not self._serve(version):
                pass
            return "served"

        return act

    def _serve(self, version: UUID) -> bool:
        with suppress(StaleVersion), self.registry.session() as session:
            adapter, expected = session.get_one(Adapter, self.registry.adapter), Expected(None)
            with suppress(NotFound):
                expected = Expected(aliases.get(session, self.admin, adapter, "production").etag)
            aliases.move(
                session, self.admin, adapter, "production", version=version, expected=expected, protected=PROTECTED
            )
            return True
        return False

    def revoke(self, version: UUID) -> Callable[[], str]:
        """Stop it; what it then is."""

        def act() -> str:
            with self.registry.session() as session:
                found = session.get_one(AdapterVersion, version)
                return versions.revoke(session, self.admin, found, reason="A race.").state

        return act


@pytest.fixture
def without_triggers(registry: Registry) -> Iterator[None]:
    """The database looks on."""
    tables = ("adapter_versions", "alias_moves", "approval_requests")
    for table in tables:
        registry.look.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
    registry.look.commit()
    yield
    for table in tables:
        registry.look.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))
    registry.look.commit()


def _approve_as_if_alone(registry: Registry) -> UUID:
    """A version that is revoked between the look at its state and the write, by somebody who locks nothing."""
    people, (version,) = People.of(registry), registry.candidates(1)
    people.request_all([version])
    with registry.session() as session:
        assert session.scalars(select(AdapterVersion.state).where(AdapterVersion.id == version)).one() == "candidate"
        people.revoke(version)()
        session.execute(text("UPDATE adapter_versions SET state = 'approved' WHERE id = :id"), {"id": version})
    return version


def test_behind_the_lock_stands_the_database(registry: Registry) -> None:
    with pytest.raises(IntegrityError, match="cannot become approved"):
        _approve_as_if_alone(registry)
    assert registry.illegal() == {}


@pytest.mark.usefixtures("without_triggers")
def test_control_without_lock_and_triggers_what_was_revoked_is_approved_and_that_is_found(registry: Registry) -> None:
    version = _approve_as_if_alone(registry)
    assert set(registry.illegal()) == {
        "what was revoked is something else", "what is approved was approved by nobody",
    }  # fmt: skip
    with registry.session() as session:
        session.execute(text("UPDATE adapter_versions SET state = 'revoked' WHERE id = :id"), {"id": version})
    assert registry.illegal() == {}


@pytest.mark.usefixtures("without_triggers")
def test_control_without_triggers_an_alias_left_on_a_revoked_version_is_found(registry: Registry) -> None:
    _move(registry, registry.person(Role.DEPARTMENT_ADMIN), 1, Expected(None))
    with registry.session() as session:
        session.execute(text("UPDATE adapter_versions SET state = 'revoked' WHERE id = :id"), {"id": registry.first})
    assert set(registry.illegal()) == {"an alias stands for what is not served"}
