"""Saved questions to the audit trail, and their answers."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from api.objects.shape import Identified, Shape
from domain.ids import IdKind, public_id
from services.audit_queries import Answer, Parameter, SavedQuery, Source

# What a column's UUIDs are of; those of others are shown as they are.
_KINDS = {
    "department": IdKind.DEPARTMENT, "event": IdKind.AUDIT_EVENT, "job": IdKind.JOB, "version": IdKind.ADAPTER_VERSION,
    "key": IdKind.API_KEY,
}  # fmt: skip
_SHOWN: Mapping[type, Callable[[Any], Any]] = {datetime: datetime.isoformat, UUID: str}


class SavedQueryObject(Identified):
    """A question that can be asked by its name."""

    id: str = Field(description="Its name.")
    object: Literal["audit.query"] = Field(default="audit.query", description="Always `audit.query`.")
    question: str = Field(description="What it answers.")
    needs: Parameter | None = Field(description="The parameter that says what it is about, where it needs one.")
    days: int | None = Field(description="How far it looks back unless told; null: to the beginning.")
    of_one_department: bool = Field(description="Whether it is read in one department's own tables: choose one.")

    @classmethod
    def of(cls, query: SavedQuery) -> "SavedQueryObject":
        """From its definition."""
        return cls(
            id=query.name, question=query.question, needs=query.needs, days=query.days,
            of_one_department=query.source is Source.DOMAIN,
        )  # fmt: skip


class AnswerObject(Shape):
    """A table: times in ISO 8601, ids as everywhere, an actor's as a UUID, since it may be a person's or a robot's."""

    object: Literal["audit.answer"] = Field(default="audit.answer", description="Always `audit.answer`.")
    query: str = Field(description="The question's name.")
    columns: list[str] = Field(description="The columns' names.")
    rows: list[list[Any]] = Field(description="The rows, the newest first; at most 1,000.")
    has_more: bool = Field(description="Whether there are more rows than these.")

    @classmethod
    def of(cls, query: SavedQuery, answer: Answer) -> "AnswerObject":
        """From the service's."""
        rows = [[_shown(name, cell) for name, cell in zip(answer.columns, row, strict=True)] for row in answer.rows]
        return cls(query=query.name, columns=list(answer.columns), rows=rows, has_more=not answer.is_whole)


def _shown(column: str, cell: Any) -> Any:
    if isinstance(cell, UUID) and column in _KINDS:
        return public_id(_KINDS[column], cell)
    return _SHOWN.get(type(cell), lambda value: value)(cell)
