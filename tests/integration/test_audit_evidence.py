"""The audit trail proves itself: what a superuser does to it is found, and the first event that it touches is named."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, create_engine, text

from benchmarks import audit_tampers
from benchmarks.audit_rows import Shape, Writer
from benchmarks.audit_tampers import Target, tampered
from evidence import verify
from evidence.checkpoints import Checkpoint, open_all, read_segment
from evidence.database import DatabaseTrail, verify_database
from evidence.seals import Seal
from models_db import sessions
from services import checkpoints, sealing
from tests.integration.conftest import Database

EVENTS = 20_000
TAMPERS = 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Sealed:
    """A trail of months, sealed in rounds by the sealer, with two checkpoints."""

    app: Engine
    admin_url: str
    key: Ed25519PrivateKey
    checkpoints: list[Checkpoint]
    kept: dict[UUID, list[Seal]]
    chain: UUID


@pytest.fixture(scope="module")
def sealed(database: Database) -> Iterator[Sealed]:
    app, key = create_engine(database.app_url), Ed25519PrivateKey.generate()
    admin_url = database.admin_url.replace("+psycopg", "")
    with psycopg.connect(admin_url) as superuser:
        writer = Writer(superuser, Shape(events=EVENTS, months=4, departments=5, batch=1000))
        while (last := writer.write()) is not None:
            with sessions.sealer_session(app) as session:
                assert sealing.seal(session, at=(last - _EPOCH) // timedelta(microseconds=1))
            if writer.is_half:
                with sessions.sealer_session(app) as session:
                    checkpoints.make(session, key, installation="acme")
    with sessions.sealer_session(app) as session:
        checkpoints.make(session, key, installation="acme")
    with sessions.sealer_session(app) as session:
        lines = [line for _, line in checkpoints.lines_after(session, 0)]
        opened = open_all(lines, key.public_key())
        segments = [checkpoints.publication(session, each.number).segment for each in opened]
        chains = session.execute(text("SELECT chain FROM audit_seals GROUP BY chain ORDER BY sum(events)")).scalars()
        chain = list(chains)[1]
    kept: dict[UUID, list[Seal]] = {}
    for segment, checkpoint in zip(segments, opened, strict=True):
        for seal in read_segment(segment, checkpoint):
            kept.setdefault(seal.chain, []).append(seal)
    yield Sealed(app, admin_url, key, opened, kept, chain)
    app.dispose()


def test_what_nobody_touched_is_found_whole(sealed: Sealed) -> None:
    report = verify_database(sealed.admin_url, sealed.checkpoints)
    assert (report.findings, report.events, report.unsealed, report.checkpoints) == ([], EVENTS, 0, 2)
    assert report.chains == 5 + 1
    in_two = verify_database(sealed.admin_url, sealed.checkpoints, processes=2)
    assert in_two == report


def test_every_tamper_of_every_kind_is_found_and_its_first_event_is_named(sealed: Sealed) -> None:
    chance, found = random.Random(20261125), Counter[str]()
    with psycopg.connect(sealed.admin_url) as superuser:
        target = Target.of(superuser, sealed.chain)
        whole = verify.verify(DatabaseTrail(superuser), sealed.checkpoints, sealed.kept)
        assert whole.first_bad is None
        for turn in range(TAMPERS):
            kind = audit_tampers.KINDS[turn % len(audit_tampers.KINDS)]
            with tampered(target, kind, chance) as tamper:
                report = verify.conclude(
                    [
                        verify.verify_chain(
                            DatabaseTrail(superuser), target.chain, sealed.checkpoints, sealed.kept[target.chain]
                        )
                    ],
                    [],
                    len(sealed.checkpoints),
                )
            assert report.first_bad is not None, tamper
            assert report.first_bad.number == tamper.first_bad, (tamper, report.first_bad)
            found[tamper.kind] += 1
        assert verify.verify(DatabaseTrail(superuser), sealed.checkpoints, sealed.kept).findings == []
    assert sum(found.values()) == TAMPERS
    assert len(found) == len(audit_tampers.KINDS)
