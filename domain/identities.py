"""Who a sign-in says somebody is, and what roles their groups at the provider come to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from domain.access import DEPARTMENT_ROLES, Role


@dataclass(frozen=True)
class Identity:
    """What a provider's token says, once it is believed."""

    issuer: str
    subject: str
    email: str | None
    is_email_verified: bool
    name: str
    groups: frozenset[str]
    nonce: str | None


@dataclass(frozen=True)
class GroupRoles:
    """What the members of a group are in a department."""

    department: str
    roles: frozenset[Role]


# Approvers are made by two operators, and a group's administrator is neither.
GROUP_ROLES = DEPARTMENT_ROLES - {Role.APPROVER}


def parse_groups(text: str | None) -> dict[str, GroupRoles]:
    """`GROUP=DEPARTMENT:ROLE+ROLE`, separated by commas. Raises ValueError."""
    found: dict[str, GroupRoles] = {}
    for entry in (part.strip() for part in (text or "").split(",")):
        if not entry:
            continue
        group, _, place = entry.partition("=")
        department, _, names = place.partition(":")
        roles = set(names.split("+"))
        if not group or not department or not roles <= {role.value for role in GROUP_ROLES} or group in found:
            raise ValueError(f"not GROUP=DEPARTMENT:ROLE+ROLE, or a group twice: {entry}")
        found[group] = GroupRoles(department, frozenset(Role(name) for name in roles))
    return found


def roles_of(groups: Collection[str], mapping: Mapping[str, GroupRoles]) -> dict[str, frozenset[Role]]:
    """The roles in every department that the mapping names: also none, where the person is in no group of it."""
    found: dict[str, frozenset[Role]] = {each.department: frozenset() for each in mapping.values()}
    for group in groups:
        if (given := mapping.get(group)) is not None:
            found[given.department] |= given.roles
    return found
