"""What the database refuses by itself, whoever asks: here its superuser, past every service."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import IntegrityError

from domain.adapters import NEXT, VersionState
from domain.data_classes import REQUIRED_APPROVALS, DataClass
from domain.ids import IdKind, parse_id
from tests.integration.api.governed import Governed, sent
from tests.integration.conftest import Database


@pytest.fixture
def connection(database: Database) -> Iterator[Connection]:
    """The superuser, in a transaction that is taken back."""
    engine = create_engine(database.admin_url)
    with engine.connect() as connection:
        yield connection
        connection.rollback()
    engine.dispose()


def key_of(version: dict[str, Any]) -> UUID:
    return parse_id(IdKind.ADAPTER_VERSION, version["id"])


def set_state(connection: Connection, version: UUID, state: str) -> None:
    changing = text("UPDATE adapter_versions SET state = :state WHERE id = :id")
    connection.execute(changing, {"state": state, "id": version})


def refused(connection: Connection, statement: str, why: str, **parameters: object) -> None:
    with pytest.raises(IntegrityError, match=why), connection.begin_nested():
        connection.execute(text(statement), parameters)


def test_the_database_and_the_rules_agree(connection: Connection) -> None:
    may = text("SELECT version_may_become(:before, :after)")
    for before in VersionState:
        for after in VersionState:
            found = connection.execute(may, {"before": before, "after": after}).scalar()
            assert found == (after in NEXT[before]), (before, after)
    required = text("SELECT required_approvals(:data_class)")
    for data_class in DataClass:
        found = connection.execute(required, {"data_class": data_class}).scalar()
        assert found == REQUIRED_APPROVALS[data_class]


def test_a_version_moves_by_the_table_alone(governed: Governed, connection: Connection) -> None:
    version = key_of(governed.train("ruled"))
    connection.execute(text("DELETE FROM aliases"))
    statement = "UPDATE adapter_versions SET state = :state WHERE id = :id"
    refused(connection, statement, "nobody approved", state="approved", id=version)
    set_state(connection, version, "rejected")
    refused(connection, statement, "cannot become", state="approved", id=version)
    refused(connection, statement, "cannot become", state="candidate", id=version)
    set_state(connection, version, "revoked")
    for state in set(VersionState) - {VersionState.REVOKED}:
        refused(connection, statement, "cannot become", state=state, id=version)


@pytest.mark.parametrize(
    "change",
    ["digest = 'sha256:0'", "manifest = '{}'", "report = '{}'", "number = 9", "submitter_id = gen_random_uuid()",
     "created_by = gen_random_uuid()", "data_class = 'public'", "model_name = 'ft:x'", "worker = 'x'",
     "code_version = 'x'", "created_at = now()"],
)  # fmt: skip
def test_what_was_registered_does_not_change(governed: Governed, connection: Connection, change: str) -> None:
    version = key_of(governed.train("fixed"))
    # Column names and values of this test's own.
    refused(connection, f"UPDATE adapter_versions SET {change} WHERE id = :id", "does not change", id=version)  # noqa: S608
    connection.execute(text('UPDATE adapter_versions SET labels = \'{"a": "b"}\' WHERE id = :id'), {"id": version})


def test_a_deleted_version_stays_deleted(governed: Governed, connection: Connection) -> None:
    version = key_of(governed.train("tombstone"))
    refused(connection, "UPDATE adapter_versions SET deleted_at = now() WHERE id = :id", "an alias stands", id=version)
    connection.execute(text("DELETE FROM aliases"))
    connection.execute(text("UPDATE adapter_versions SET deleted_at = now() WHERE id = :id"), {"id": version})
    refused(connection, "UPDATE adapter_versions SET deleted_at = NULL WHERE id = :id", "stays deleted", id=version)


DECIDE = """
    INSERT INTO approval_decisions
        (department_id, request_id, version_id, digest, submitter_id, requester_id, approver_id, decision, comment)
    SELECT department_id, id, version_id, :digest, :submitter, requester_id, :approver, 'approve', ''
    FROM approval_requests WHERE id = :request
"""


def test_nobody_approves_their_own_by_any_statement(governed: Governed, connection: Connection) -> None:
    version = governed.train("own-rule", by="trainer")
    asked = governed.request(version, by="admin")
    people = {name: parse_id(IdKind.USER, governed.person(name).id) for name in ("trainer", "admin")}
    given = {"request": parse_id(IdKind.APPROVAL, asked["id"]), "digest": version["digest"],
             "submitter": people["trainer"], "approver": uuid4()}  # fmt: skip
    refused(connection, DECIDE, "not_the_submitter", **(given | {"approver": people["trainer"]}))
    refused(connection, DECIDE, "not_the_requester", **(given | {"approver": people["admin"]}))
    # A decision that names somebody else as the submitter, or other bytes, is about no request there is.
    stranger = {"submitter": uuid4(), "approver": people["trainer"]}
    refused(connection, DECIDE, "fk_approval_decisions_request", **(given | stranger))
    refused(connection, DECIDE, "fk_approval_decisions_request", **(given | {"digest": "sha256:0"}))
    connection.execute(text(DECIDE), given)
    refused(connection, DECIDE, "uq_approval_decisions_request_id_approver_id", **given)


def test_a_version_is_approved_by_enough_people_and_no_fewer(governed: Governed, connection: Connection) -> None:
    version = governed.train("enough", data_class="restricted")
    asked = governed.request(version)
    request = parse_id(IdKind.APPROVAL, asked["id"])
    given = {"request": request, "digest": version["digest"],
             "submitter": parse_id(IdKind.USER, asked["submitter"])}  # fmt: skip
    # A request that claims one is enough, for restricted rows.
    connection.execute(text("UPDATE approval_requests SET required = 1 WHERE id = :id"), {"id": request})
    approve = "UPDATE adapter_versions SET state = 'approved' WHERE id = :id"
    for people in range(2):
        refused(connection, approve, "nobody approved", id=key_of(version))
        connection.execute(text(DECIDE), given | {"approver": UUID(int=people + 1)})
    closing = text("UPDATE approval_requests SET state = 'approved', closed_at = now() WHERE id = :id")
    refused(connection, approve, "nobody approved", id=key_of(version))
    connection.execute(closing, {"id": request})
    connection.execute(text(approve), {"id": key_of(version)})
    refused(connection, "UPDATE approval_requests SET state = 'pending', closed_at = NULL WHERE id = :id",
            "this request is closed", id=request)  # fmt: skip


MOVE = """
    INSERT INTO alias_moves (department_id, adapter_id, name, kind, version_id, protected, moved_by_type, mover_id)
    SELECT department_id, adapter_id, 'live', 'moved', id, :protected, 'user', :mover
    FROM adapter_versions WHERE id = :id
"""


def test_an_alias_stands_for_what_it_may_stand_for(governed: Governed, connection: Connection) -> None:
    candidate, approved = governed.train("live"), governed.approved("live")
    approver = parse_id(IdKind.USER, governed.person("approver").id)
    given = {"protected": True, "mover": uuid4(), "id": key_of(approved)}
    connection.execute(text(MOVE), given)
    refused(connection, MOVE, "cannot stand", **(given | {"id": key_of(candidate)}))
    refused(connection, MOVE, "does not put it into service", **(given | {"mover": approver}))
    refused(connection, MOVE, "protected_by_a_person", **(given | {"mover": None}))
    connection.execute(text(MOVE), given | {"protected": False, "mover": None, "id": key_of(candidate)})
    connection.execute(text("DELETE FROM aliases"))
    for state in ("retired", "revoked"):
        set_state(connection, key_of(candidate), state)
        refused(connection, MOVE, "cannot stand", **(given | {"protected": False, "id": key_of(candidate)}))


def test_what_an_alias_stands_for_is_not_stopped_under_it(governed: Governed, connection: Connection) -> None:
    version = governed.approved("held")
    sent(governed.move("production", version))
    for state in ("revoked", "retired"):
        refused(connection, "UPDATE adapter_versions SET state = :state WHERE id = :id", "an alias stands",
                state=state, id=key_of(version))  # fmt: skip


def test_an_alias_is_where_its_last_move_put_it(governed: Governed, connection: Connection) -> None:
    first, second = governed.train("bound"), governed.train("bound")
    other = governed.train("bound-elsewhere")
    sent(governed.move("staging", first))
    moving = "UPDATE aliases SET version_id = :id WHERE name = 'staging' AND version_id = :first"
    for wanted in (second, other):
        refused(connection, moving, "fk_aliases_department_id_adapter_id_name_version_id_move_id",
                id=key_of(wanted), first=key_of(first))  # fmt: skip
