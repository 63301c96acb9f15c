from typing import Literal

from pydantic import Field

from api.objects.shape import Shape


class LineageEdgeObject(Shape):
    """`subject relation object`, such as version trained_on file."""

    subject: str = Field(description="Public id of what descends.")
    subject_type: str = Field(description="Its kind: `adapter_version`.")
    subject_name: str | None = Field(description="Its name, such as `adapter:3`; null where it has none.")
    relation: str = Field(description="`produced_by`, `grafted_on`, `trained_on`, `validated_on` or `evaluated_on`.")
    object: str = Field(description="Public id of what it descends from.")
    object_type: str = Field(description="Its kind: `job`, `base_model` or `file`.")
    object_name: str | None = Field(description="Its name; null where it has none, or the caller may not read it.")


class LineageObject(Shape):
    """Everything directly related to one thing, in both directions."""

    object: Literal["lineage"] = Field(default="lineage", description="Always `lineage`.")
    id: str = Field(description="The thing asked about.")
    edges: list[LineageEdgeObject] = Field(description="Every relation that touches it, oldest first.")
