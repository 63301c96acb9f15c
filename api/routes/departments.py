"""Departments, which the client calls projects."""

from typing import Annotated

from fastapi import APIRouter

from api.bodies import json_body
from api.deps import Authenticated, InProject, needs
from api.objects.departments import ProjectChange, ProjectObject, ProjectRequest
from api.objects.shape import Page, page_of
from domain.access import Permission
from services import closing, departments

router = APIRouter(prefix="/v1/organization/projects", tags=["Organisation"])


@router.post("", summary="Create a department", dependencies=[needs(Permission.DEPARTMENT_CREATE)])
def create(caller: Authenticated, wanted: Annotated[ProjectRequest, json_body(ProjectRequest)]) -> ProjectObject:
    """Create a department; for the operator. Its name stays its own for ever."""
    with caller.runtime.platform() as session:
        return ProjectObject.of(departments.create(session, caller.principal, wanted.name))


@router.get("", summary="List departments", dependencies=[needs(Permission.DEPARTMENT_READ)])
def list_all(caller: Authenticated) -> Page[ProjectObject]:
    """Every department, newest first, for the operator and the auditor; for anyone else their own."""
    with caller.anywhere() as session:
        return page_of(map(ProjectObject.of, departments.list_all(session, caller.principal)))


@router.post(
    "/{project_id}/archive",  # noqa: FAST003 - taken by project_caller
    summary="Close a department",
    dependencies=[needs(Permission.DEPARTMENT_CLOSE)],
)
def archive(caller: InProject) -> ProjectObject:
    """Close a department for ever; for the operator.

    Its keys are off and its jobs are ended at once. Objects and rows are erased a month later, the audit trail stays.
    """
    with caller.in_department() as session:
        return ProjectObject.of(closing.close(session, caller.principal, caller.department))


@router.get("/{project_id}", summary="Look at a department", dependencies=[needs(Permission.DEPARTMENT_READ)])  # noqa: FAST003 - taken by project_caller
def retrieve(caller: InProject) -> ProjectObject:
    """One department: one's own, or any for the operator and the auditor."""
    with caller.in_department() as session:
        return ProjectObject.of(departments.get(session, caller.principal, caller.department))


@router.post("/{project_id}", summary="Change a department", dependencies=[needs(Permission.DEPARTMENT_CHANGE)])  # noqa: FAST003 - taken by project_caller
def change(caller: InProject, wanted: Annotated[ProjectChange, json_body(ProjectChange)]) -> ProjectObject:
    """Set how confidential files are whose upload says nothing; for its admin."""
    with caller.in_department() as session:
        return ProjectObject.of(
            departments.set_default_data_class(session, caller.principal, wanted.default_data_class)
        )
