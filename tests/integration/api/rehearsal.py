"""The application on a runtime in which nothing stays: every transaction is rolled back, and no worker is rung for.

So each request finds the same installation, whatever the one before it would have changed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from uuid import UUID

from sqlalchemy.orm import Session

from models_db import sessions
from runtime.wiring import Runtime


class Rehearsal(Runtime):
    """Shares database and object store with the runtime it is made from."""

    @classmethod
    def of(cls, runtime: Runtime) -> "Rehearsal":
        given = {field.name: getattr(runtime, field.name) for field in fields(Runtime)}
        # Nobody counts the rows of an estimate here.
        return cls(**given | {"settings": runtime.settings.model_copy(update={"estimate_wait_s": 0})})

    @contextmanager
    def department(self, department: UUID) -> Iterator[Session]:
        with sessions.department_session(self.database, department) as session:
            yield session
            _undo(session)

    @contextmanager
    def platform(self) -> Iterator[Session]:
        with sessions.platform_session(self.database) as session:
            yield session
            _undo(session)

    @contextmanager
    def auditor(self) -> Iterator[Session]:
        with sessions.auditor_session(self.database) as session:
            yield session
            _undo(session)

    def close(self) -> None:
        """What it shares is not its own to close."""


def _undo(session: Session) -> None:
    # What a commit would refuse is to be refused here as well.
    session.flush()
    # What was read stays readable: the answer is made of it.
    session.expunge_all()
    session.rollback()
