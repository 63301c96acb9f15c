"""Erasing a file, and with it what was made from it: what descends from it, who agrees, and how far it is."""

import hashlib
import json
from enum import StrEnum

from pydantic import Field

from domain.digests import Digest
from domain.frozen import Frozen
from domain.lineage import LEARNED


class ErasureState(StrEnum):
    """requested -> erasing -> done; a request can be withdrawn."""

    REQUESTED = "requested"
    # A second person has agreed: nothing of it is handed out any more, and its objects go.
    ERASING = "erasing"
    DONE = "done"
    WITHDRAWN = "withdrawn"


class RunningJobs(StrEnum):
    """What becomes of jobs that use the file and have not ended when the erasing is confirmed."""

    # They are cancelled.
    STOP = "stop"
    # They end by themselves, and what they make is erased with the rest.
    FINISH = "finish"


class DescendedVersion(Frozen):
    """A version that has to do with the file. is_revoked: by the erasing; else it was only measured on the file."""

    id: str = Field(description="Its id, `adapterver-…`.")
    adapter: str = Field(description="Its adapter.")
    number: int = Field(description="Its number.")
    state: str = Field(description="What state it is in.")
    relation: str = Field(description="What it has to do with the file.")
    through: str | None = Field(description="The version through which, where it is not the file itself.")

    @property
    def learned(self) -> bool:
        """Whether something of the file may be in its weights."""
        return self.relation in LEARNED


class DescendedJob(Frozen):
    """A job that reads the file, or goes on from a version that learned from it."""

    id: str = Field(description="Its id, `ftjob-…`.")
    state: str = Field(description="What state it is in.")
    checkpoints: int = Field(description="How many checkpoints of it are stored.")


class Holder(Frozen):
    """Who downloaded such a version, and so may have it still."""

    holder: str = Field(description="Who was sent it.")
    version: str = Field(description="The version.")
    times: int = Field(description="How often.")
    last_at: int = Field(description="When the last time, in seconds since 1970.")


class Served(Frozen):
    """A server that last said that it has such a version loaded."""

    server: str = Field(description="The server, as it calls itself.")
    version: str = Field(description="The version.")


class ErasurePlan(Frozen):
    """All that descends from a file: what a dry run shows, and what a second person agrees to."""

    file: str
    digest_of_file: Digest
    versions: tuple[DescendedVersion, ...]
    jobs: tuple[DescendedJob, ...]
    evaluations: tuple[str, ...]
    holders: tuple[Holder, ...]
    deployments: tuple[Served, ...]
    # Other files of the department with the same bytes, which stay, and their object with them.
    same_bytes: tuple[str, ...]

    @property
    def digest(self) -> Digest:
        """Of what descends, by id: it changes when something comes or goes, and not while a job makes progress."""
        bound = {
            "file": [self.file, self.digest_of_file],
            "versions": sorted(f"{version.id} {version.relation}" for version in self.versions),
            "jobs": sorted(job.id for job in self.jobs),
            "evaluations": sorted(self.evaluations),
            "holders": sorted(f"{holder.holder} {holder.version}" for holder in self.holders),
            "deployments": sorted(f"{served.server} {served.version}" for served in self.deployments),
            "same_bytes": sorted(self.same_bytes),
        }
        canonical = json.dumps(bound, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()
