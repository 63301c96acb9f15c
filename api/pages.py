"""The query parameters that lists share."""

from typing import Annotated

from fastapi import Query

After = Annotated[str | None, Query(description="Id of the last object of the page before.")]
