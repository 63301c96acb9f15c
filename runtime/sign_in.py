"""Signing in with a token of the organisation's provider: who it is, their groups' roles, and where they act."""

from uuid import UUID

from domain.access import Principal, PrincipalType, Role
from domain.identities import Identity, parse_groups, roles_of
from domain.keys import INVALID_KEY_MESSAGE
from domain.refusals import Denied, DepartmentNeeded, ForeignDepartment, Unauthenticated
from runtime.tokens import TokenVerifier
from runtime.wiring import Runtime
from services import identities


def principal_of(
    runtime: Runtime,
    tokens: TokenVerifier,
    token: str,
    *,
    department: UUID | None,
    request_id: str,
    source_ip: str | None,
) -> Principal:
    """Who acts by a token, in the department that was chosen, or the only one where they have a role.

    Raises Unauthenticated, also for somebody who is nobody here; ForeignDepartment, DepartmentNeeded.
    """
    identity = tokens.verify(token)
    person, held = _known(runtime, identity)
    if department is None and len(held) != 1:
        if held:
            raise DepartmentNeeded("Choose a department with the header `OpenAI-Project`.", param="OpenAI-Project")
        raise Denied("You have no role in any department.")
    chosen = next(iter(held)) if department is None else department
    if chosen not in held:
        raise ForeignDepartment("No such project.", param="OpenAI-Project")
    return Principal(
        type=PrincipalType.USER,
        id=person,
        key_id=None,
        department=chosen,
        roles=held[chosen],
        request_id=request_id,
        source_ip=source_ip,
    )


def _known(runtime: Runtime, identity: Identity) -> tuple[UUID, dict[UUID, frozenset[Role]]]:
    """The person, and their roles once those follow their groups."""
    settings = runtime.settings
    by_name = roles_of(identity.groups, parse_groups(settings.oidc_groups))
    with runtime.platform() as session:
        wanted = identities.wanted_roles(session, by_name)
        person = identities.person_of(session, identity, trusts_email=settings.oidc_trust_email)
        if person is None and any(wanted.values()):
            person = identities.enter(session, identity, trusts_email=settings.oidc_trust_email)
        if person is None:
            raise Unauthenticated(INVALID_KEY_MESSAGE)
        held = identities.memberships(session, person)
    if not (changed := _changed(held, wanted)):
        return person, held
    for department, roles in changed.items():
        _follow(runtime, department, person, roles)
    with runtime.platform() as session:
        return person, identities.memberships(session, person)


def _changed(held: dict[UUID, frozenset[Role]], wanted: dict[UUID, frozenset[Role]]) -> dict[UUID, frozenset[Role]]:
    """Where the groups say something else than the membership. An approver's role is not theirs to say."""
    return {
        department: roles
        for department, roles in wanted.items()
        if held.get(department, frozenset()) - {Role.APPROVER} != roles
    }


def _follow(runtime: Runtime, department: UUID, person: UUID, roles: frozenset[Role]) -> None:
    try:
        with runtime.department(department) as session:
            identities.follow_groups(session, department, person, roles)
    except Denied:
        # The last admin stays, and so does an approver who is in a trainers' group: what they had is what they have.
        return
