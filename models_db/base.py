"""What every table has: UUIDv7 keys from the server, UTC times, and names for constraints."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Text, Uuid, func
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

type_map: dict[Any, Any] = {
    datetime: DateTime(timezone=True),
    UUID: Uuid(),
    str: Text(),
    list[str]: ARRAY(Text()),
    dict[str, Any]: JSONB(),
}


class Table(DeclarativeBase):
    """The declarative base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = type_map


# PostgreSQL 18's uuidv7(): ids sort by time, which makes them the cursor of every list.
UuidKey = Annotated[UUID, mapped_column(primary_key=True, server_default=func.uuidv7())]
CreatedAt = Annotated[datetime, mapped_column(server_default=func.now())]
