"""SeaweedFS on the data directory, as the object store: `weed mini`, all its parts in one process.

Its filer and volume ports ask for no credentials: it is for machines whose local users are all trusted, and listens
on loopback only.
"""

import json
import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from runtime.embedded.data_directory import DataDirectory, Secrets, write_private
from runtime.processes import ChildProcess
from storage.errors import StorageUnavailable
from storage.objects import ObjectStore

# Every port it would otherwise choose itself.
PORT_FLAGS = tuple(
    f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer", "admin") for kind in ("", ".grpc")
)
_FLAGS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    # On by default.
    "-master.telemetry=false",
    "-webdav=false",
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.iam=false",
    "-s3.allowDeleteBucketNotEmpty=false",
    "-s3.autoCreateBucket=false",
    # There is no second volume server to wait for.
    "-volume.preStopSeconds=0",
)


@dataclass
class SeaweedFS:
    """One SeaweedFS server: its process, its ports by flag, and the bucket."""

    process: ChildProcess
    ports: Mapping[str, int]
    bucket: ObjectStore

    def is_ready(self) -> bool:
        """Whether it can place a new object, has the bucket and takes the keys. Creates the bucket."""
        try:
            placed = httpx.get(f"http://127.0.0.1:{self.ports['master.port']}/dir/assign", timeout=5)
            # The client below waits between its attempts; a closed port is seen faster here.
            socket.create_connection(("127.0.0.1", self.ports["s3.port"]), timeout=5).close()
        except (httpx.HTTPError, OSError):
            return False
        if placed.status_code != httpx.codes.OK:
            return False
        try:
            self.bucket.ensure_bucket()
        except StorageUnavailable:
            return False
        return True

    def remove_sockets(self) -> None:
        """Remove the Unix sockets that it leaves in /tmp. They were its user's only."""
        for port in self.ports.values():
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - where it puts them
                with suppress(OSError):
                    path.unlink()


def seaweedfs(directory: DataDirectory, program: Path, *, ports: Mapping[str, int], bucket: str) -> SeaweedFS:
    """Prepare DIR/seaweedfs with one identity that may do everything."""
    folder = directory.private_folder("seaweedfs")
    # The master's notes are kept by port, and are made anew from the volumes at each start.
    for notes in folder.glob("m[0-9]*"):
        shutil.rmtree(notes)
    write_private(folder / "s3.json", _identities(directory.secrets))
    process = ChildProcess(
        name="seaweedfs",
        argv=[
            str(program),
            "mini",
            f"-dir={folder}",
            f"-s3.config={folder / 's3.json'}",
            *_FLAGS,
            *(f"-{flag}={port}" for flag, port in ports.items()),
        ],
        log=directory.logs / "seaweedfs.log",
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": str(folder)},
        cwd=folder,
        inherit=[directory.lock],
    )
    store = ObjectStore(
        endpoint_url=f"http://127.0.0.1:{ports['s3.port']}",
        bucket=bucket,
        access_key=directory.secrets.s3_access_key,
        secret_key=directory.secrets.s3_secret_key,
    )
    return SeaweedFS(process, ports, store)


def _identities(secrets: Secrets) -> str:
    keys = {"accessKey": secrets.s3_access_key, "secretKey": secrets.s3_secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return json.dumps({"identities": [{"name": "tsugiki", "credentials": [keys], "actions": actions}]})
