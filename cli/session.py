"""What one call of the command line knows: the connection, the output, and the department it is about."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import typer

from cli import endpoint
from cli.connection import FORBIDDEN, Connection, JsonObject, Refused
from cli.endpoint import Endpoint
from cli.output import Output
from domain.ids import IdKind


class NotNamed(Exception):  # noqa: N818 - named for the fact, as refusals are
    """Nothing that the caller may see goes by the name given."""


@dataclass(frozen=True)
class Options:
    """The options before the subcommand."""

    base_url: str | None
    api_key: str | None
    endpoint_file: Path | None
    department: str | None


class Session:
    """Made once a call; nothing is read or connected before it is needed."""

    def __init__(self, options: Options, output: Output) -> None:
        self._options, self.output = options, output
        self._opened = ExitStack()

    @classmethod
    def of(cls, context: typer.Context) -> "Session":
        """The session that the root command left in the context."""
        session = context.obj
        if not isinstance(session, cls):
            raise TypeError("the root command has not run")
        return session

    @cached_property
    def endpoint(self) -> Endpoint:
        """Where and as whom. Raises EndpointUnknown."""
        return endpoint.find(self._options.base_url, self._options.api_key, self._options.endpoint_file)

    @cached_property
    def connection(self) -> Connection:
        """The caller's connection, in the department of `--department` where one is given."""
        named = self._options.department
        plain = self._connect(self.endpoint)
        return self._connect(self.endpoint, _department_id(plain, named)) if named else plain

    def signed_in(self, token: str) -> Connection:
        """A connection by a token of the identity provider, in the department of `--department` where one is given."""
        found = endpoint.find(self._options.base_url, token, self._options.endpoint_file)
        named, plain = self._options.department, self._connect(found)
        return self._connect(found, _department_id(plain, named)) if named else plain

    @cached_property
    def audit_connection(self) -> Connection:
        """As `connection`, but with the auditor's key where a local service's file holds one."""
        auditor_key = self.endpoint.auditor_key
        if auditor_key is None:
            return self.connection
        return self._connect(Endpoint(self.endpoint.base_url, auditor_key))

    def audit_connection_in(self, department: str | None) -> Connection:
        """The same in a department by name or id, where one is given."""
        if department is None:
            return self.audit_connection
        endpoint = self.audit_connection.endpoint
        return self._connect(endpoint, _department_id(self.audit_connection, department))

    def _connect(self, endpoint: Endpoint, department: str | None = None) -> Connection:
        connection = Connection(endpoint, department)
        self._opened.callback(connection.close)
        return connection

    def close(self) -> None:
        """Close what was connected."""
        self._opened.close()

    @cached_property
    def me(self) -> JsonObject:
        """Whom the key acts for."""
        return self.connection.get("me")

    @cached_property
    def department(self) -> str:
        """The id of the department this call is about: `--department`'s, else the key's own. Raises NotNamed."""
        if chosen := self._options.department:
            return self.department_id(chosen)
        own: str | None = self.me["department"]
        if own is None:
            raise NotNamed("This key stands outside all departments: say which with --department.")
        return own

    def department_id(self, name_or_id: str) -> str:
        """The id of a department by name or id. Raises NotNamed."""
        return _department_id(self.connection, name_or_id)

    def member(self, email_or_id: str) -> str:
        """The id of a person of the department by e-mail address or id. Raises NotNamed."""
        if "@" not in email_or_id:
            return email_or_id
        if email_or_id.lower() == self.me.get("email"):
            return str(self.me["id"])
        try:
            for user in self.connection.pages("organization", "projects", self.department, "users"):
                if user["email"] == email_or_id.lower():
                    return str(user["id"])
        except Refused as refused:
            if refused.status != FORBIDDEN:
                raise
            raise NotNamed(
                f"Only an admin may look up {email_or_id}: `keys create` without --user makes a key for yourself."
            ) from None
        raise NotNamed(f"Nobody in the department has the e-mail address {email_or_id}.")


def _department_id(connection: Connection, name_or_id: str) -> str:
    if name_or_id.startswith(IdKind.DEPARTMENT):
        return name_or_id
    found: JsonObject
    for found in connection.pages("organization", "projects"):
        if found["name"] == name_or_id:
            return str(found["id"])
    raise NotNamed(f"No department that you may see is called {name_or_id}.")
