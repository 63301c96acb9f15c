"""Exports of the audit trail that are too large for an answer, written beside the sweeper's work."""

import gzip
import hashlib
import logging
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.wiring import Runtime
from services import audit_exports
from services.audit_exports import ExportFormat, Scope
from storage.keys import Key

log = logging.getLogger(__name__)


class ExportWriter:
    """Writes what waits, in a thread of its own while there is something."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Begin, unless it is still at it."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = threading.Thread(target=self._write_or_log, name="exports", daemon=True)
        self._thread.start()

    def _write_or_log(self) -> None:
        try:
            while self.write_next():
                pass
        except Exception:
            # The edge: the next sweep begins again.
            log.exception("an export of the audit trail could not be written")

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
