"""Who calls, and the sessions they may open."""

import re
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from domain.access import PLATFORM_ROLES, Permission, Principal, require_any
from domain.digests import Digest
from domain.ids import IdKind, parse_id
from domain.keys import INVALID_KEY_MESSAGE, KEY_PREFIX
from domain.refusals import ControlCharacter, DepartmentNeeded, ForeignDepartment, NotFound, Unauthenticated
from runtime import sign_in
from runtime.erasing import erase_blobs
from runtime.wiring import Runtime
from services import authentication, blobs, departments

# W3C Trace Context.
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer tsk_…`.")


@dataclass(frozen=True)
class Caller:
    """The principal of a request, and the parts of the service their request may use."""

    runtime: Runtime
    principal: Principal

    @property
    def department(self) -> UUID:
        """The department the request acts in. Raises DepartmentNeeded for a platform key that chose none."""
        if self.principal.department is None:
            raise DepartmentNeeded("Choose a department with the header `OpenAI-Project`.", param="OpenAI-Project")
        return self.principal.department

    @contextmanager
    def in_department(self) -> Iterator[Session]:
        """One transaction of the caller's department. Raises DepartmentNeeded, or NotFound where there is none such."""
        with self.runtime.department(self.department) as session:
            if self.principal.roles & PLATFORM_ROLES:
                # A department's key exists only in a department that does; a platform's key names any.
                departments.get(session, self.principal, self.department)
            yield session

    def erase_blobs(self, digests: Collection[Digest]) -> None:
        """Erase what a transaction that is committed has left unnamed. What another row names stays."""
        erase_blobs(
            self.runtime, self.department, digests, lambda session: blobs.announce(session, self.department, digests)
        )

    def anywhere(self) -> AbstractContextManager[Session]:
        """One transaction of the caller's department where there is one, else of the platform."""
        return self.runtime.platform() if self.principal.department is None else self.in_department()


def authenticated(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """Resolve the presented key. Every route under /v1 stands behind this."""
    _refuse_nul(request)
    if credentials is None:
        raise Unauthenticated(INVALID_KEY_MESSAGE)
    runtime: Runtime = request.app.state.runtime
    principal = _resolved(request, runtime, credentials.credentials)
    principal = request.state.principal = _in_circumstances(principal, request)
    if (chosen := _chosen_department(request)) is not None:
        principal = request.state.principal = _acting_in(principal, chosen, param="OpenAI-Project")
    return Caller(runtime, principal)


def _in_circumstances(principal: Principal, request: Request) -> Principal:
    """With what the audit trail keeps of a request. A browser's name says much: its hash is kept."""
    agent = request.headers.get("user-agent")
    trace = _TRACE.fullmatch(request.headers.get("traceparent", ""))
    return replace(
        principal,
        auth_method="api_key" if principal.key_id else "oidc",
        trace_id=trace[1] if trace else None,
        user_agent_hash=sha256(agent.encode()).hexdigest()[:16] if agent else None,
    )


def _resolved(request: Request, runtime: Runtime, presented: str) -> Principal:
    """Who a key, or a token of the organisation's provider, acts for. Raises Unauthenticated."""
    request_id, source_ip = request.state.request_id, request.client.host if request.client else None
    if runtime.tokens is not None and not presented.startswith(KEY_PREFIX):
        department = _chosen_department(request)
        return sign_in.principal_of(
            runtime, runtime.tokens, presented, department=department, request_id=request_id, source_ip=source_ip
        )
    with runtime.platform() as session:
        return authentication.authenticate(session, presented, request_id=request_id, source_ip=source_ip)


def _acting_in(principal: Principal, department: UUID, *, param: str | None = None) -> Principal:
    """The principal in the department a request names. Raises ForeignDepartment for a department's key of another."""
    if not principal.roles & PLATFORM_ROLES and principal.department != department:
        raise ForeignDepartment("No such project.", param=param)
    return replace(principal, department=department)


def _refuse_nul(request: Request) -> None:
    """PostgreSQL stores no NUL: a name with one stands for nothing."""
    if "\x00" in request.scope["path"]:
        raise NotFound("No such object.")
    if any("\x00" in text for pair in request.query_params.multi_items() for text in pair):
        raise ControlCharacter("A parameter contains the character NUL.")


def _chosen_department(request: Request) -> UUID | None:
    chosen = request.headers.get("openai-project")
    if not chosen:
        return None
    try:
        return parse_id(IdKind.DEPARTMENT, chosen)
    except NotFound:
        raise NotFound("No such project.", param="OpenAI-Project") from None


Authenticated = Annotated[Caller, Depends(authenticated)]


@dataclass(frozen=True)
class Needs:
    """What a route asks of a key before it reads anything else: one of these permissions.

    How far it goes is the service's to tell: here nothing is known of the object.
    """

    permissions: tuple[Permission, ...]

    async def __call__(self, caller: Authenticated) -> None:
        """Raise Denied unless the caller has one."""
        require_any(caller.principal, self.permissions)


def needs(*permissions: Permission) -> Any:
    """What a route declares in its `dependencies`; one without it keeps the application from starting."""
    return Depends(Needs(permissions))


def project_caller(
    request: Request,
    caller: Authenticated,
    project_id: Annotated[str, Path(description="A department's id, `proj_…`.")],
) -> Caller:
    """The caller, acting in the department of the path. Raises NotFound for a department's key of any other."""
    department = parse_id(IdKind.DEPARTMENT, project_id)
    principal = request.state.principal = _acting_in(caller.principal, department)
    return Caller(caller.runtime, principal)


InProject = Annotated[Caller, Depends(project_caller)]
