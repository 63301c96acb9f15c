from typing import Annotated, Literal

from pydantic import Field, StrictInt, StrictStr

from api.objects.shape import Body, Identified, seconds
from domain.ids import IdKind, public_id
from services.deployments import Reported


class DeploymentReport(Body):
    """What an inference server has to say of a version."""

    adapter: StrictStr = Field(description="The adapter's name.")
    version: StrictInt | StrictStr = Field(description="The version's number, or an alias.")
    server: Annotated[StrictStr, Field(min_length=1, max_length=128, pattern=r"^[\w.:/@-]+$")] = Field(
        description="The server's own name: letters, digits and `._:/@-`."
    )
    state: Literal["loaded", "unloaded"] = Field(description="Whether it has the version now.")


class DeploymentObject(Identified):
    """What a server last said of a version."""

    id: str = Field(description="`deployment-…`.")
    object: Literal["deployment"] = Field(default="deployment", description="Always `deployment`.")
    adapter: str = Field(description="The adapter's name.")
    version: int = Field(description="The version's number.")
    version_id: str = Field(description="`adapterver-…`.")
    server: str = Field(description="The server's own name.")
    state: str = Field(description="`loaded` or `unloaded`.")
    since: int = Field(description="Since when it is in this state, in seconds since 1970.")
    reported_at: int = Field(description="When that was last said.")
    version_state: str = Field(description="The version's state now.")
    must_unload: bool = Field(description="Whether the server has a version that nobody may serve any more.")

    @classmethod
    def of(cls, reported: Reported) -> "DeploymentObject":
        """From its row and the version's."""
        deployment, version = reported.deployment, reported.version
        return cls(
            id=public_id(IdKind.DEPLOYMENT, deployment.id),
            adapter=reported.adapter,
            version=version.number,
            version_id=public_id(IdKind.ADAPTER_VERSION, version.id),
            server=deployment.server,
            state=deployment.state,
            since=seconds(deployment.since),
            reported_at=seconds(deployment.reported_at),
            version_state=version.state,
            must_unload=reported.must_unload,
        )
