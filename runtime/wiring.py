"""The composition root: what a process needs, built once from its settings."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

from celery import Celery
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from domain.failpoints import FailPoint, failpoint
from models_db import sessions
from runtime import failpoints
from runtime.queue import celery_app, ring
from runtime.settings import Settings
from runtime.tokens import TokenVerifier
from services.doorbell import take_nudges
from signing.keys import SigningKey
from storage.locked import LockedStore
from storage.objects import ObjectStore


@dataclass(frozen=True)
class Runtime:
    """Database, object storage and queue of one process."""

    settings: Settings
    database: Engine
    objects: ObjectStore
    locked: LockedStore
    queue: Celery
    # Of the provider that people sign in with; None where there is none.
    tokens: TokenVerifier | None = None

    @cached_property
    def signing_key(self) -> SigningKey:
        """Read by the processes that sign, and by no other. Raises SigningKeyUnusable."""
        return SigningKey.load(self.settings.signing_key_file)

    def department(self, department: UUID) -> AbstractContextManager[Session]:
        """One transaction of one department; what it nudged is rung for after its commit."""
        return self._ringing(sessions.department_session(self.database, department))

    def platform(self) -> AbstractContextManager[Session]:
        """One transaction outside all departments."""
        return self._ringing(sessions.platform_session(self.database))

    def auditor(self) -> AbstractContextManager[Session]:
        """One transaction that reads the whole audit trail and nothing else."""
        return sessions.auditor_session(self.database)

    def sealer(self) -> AbstractContextManager[Session]:
        """One transaction that reads all events and writes what proves them."""
        return sessions.sealer_session(self.database)

    @contextmanager
    def _ringing(self, opened: AbstractContextManager[Session]) -> Iterator[Session]:
        with opened as session:
            yield session
        # Only after the commit: a nudge for a row that is not there yet would be lost.
        for nudge in take_nudges(session):
            failpoint(FailPoint.RING_BEFORE)
            ring(self.queue, nudge)

    def close(self) -> None:
        """Give back connections."""
        self.database.dispose()
        self.queue.close()


def build(settings: Settings) -> Runtime:
    """Wire a process. Nothing connects yet; whatever is down shows at first use."""
    failpoints.install(settings.failpoints)
    return Runtime(
        settings=settings,
        database=sessions.connect(settings.database_url.get_secret_value()),
        objects=object_store(settings),
        locked=locked_store(settings),
        queue=celery_app(settings),
        tokens=token_verifier(settings),
    )


def token_verifier(settings: Settings) -> TokenVerifier | None:
    """The provider of the settings. Raises ValueError where only one of its two names is set."""
    if settings.oidc_issuer is None and settings.oidc_client_id is None:
        return None
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        raise ValueError("TSUGIKI_OIDC_ISSUER and TSUGIKI_OIDC_CLIENT_ID go together.")
    return TokenVerifier(settings.oidc_issuer, settings.oidc_client_id, settings.oidc_algorithms.split(","))


def object_store(settings: Settings) -> ObjectStore:
    """The bucket of the settings."""
    return ObjectStore(
        endpoint_url=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,
    )


def locked_store(settings: Settings) -> LockedStore:
    """The bucket of the settings that nobody can take anything out of."""
    return LockedStore(
        endpoint_url=settings.s3_endpoint,
        bucket=settings.s3_audit_bucket,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        region=settings.s3_region,
        keep_days=settings.audit_checkpoint_kept_days,
    )
