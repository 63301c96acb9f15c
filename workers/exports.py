"""Exports of the audit trail that are too large for an answer, written beside the sweeper's work."""

import gzip
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.wiring import Runtime
from services import audit_exports
from services.audit_exports import ExportFormat, Scope
from storage.keys import Key


class ExportWriter:
    """Writes what waits."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def write_all(self) -> None:
        """Write until nothing waits."""
        while self.write_next():
            pass

    def write_next(self) -> bool:
        """Write one export, compressed; whether there was one."""
        self._runtime.settings.work_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=self._runtime.settings.work_dir) as folder:
            path = Path(folder) / "export.gz"
            with self._runtime.auditor() as session:
                export = audit_exports.next_pending(session)
                if export is None:
                    return False
                file_format, scope, rows = ExportFormat(export.format), Scope.from_json(export.scope), 0
                with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
                    for line in audit_exports.lines(session, file_format, scope):
                        file.write(line)
                        rows += 1
            with path.open("rb") as written:
                digest = "sha256:" + hashlib.file_digest(written, "sha256").hexdigest()
            # Uploaded before the row says so: an object without it is nobody's; a row without its object is a lie.
            self._runtime.objects.put(Key.audit_export(export.id, digest), path, digest, path.stat().st_size)
            with self._runtime.auditor() as session:
                audit_exports.written(session, export.id, rows=rows, digest=digest, size_bytes=path.stat().st_size)
        return True
