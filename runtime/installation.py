"""An installation's first start: schema, bucket, the signing key, and the two API keys it begins with."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy.exc import OperationalError

from evidence import checkpoints
from runtime import migrations
from runtime.embedded.data_directory import write_private
from runtime.settings import Settings
from runtime.wiring import Runtime, build
from services import audit_months, installation
from services.installation import PlatformKeys
from signing import keys
from storage.errors import StorageUnavailable


def prepare(settings: Settings, keep: Callable[[PlatformKeys], None]) -> bool:
    """Bring schema, bucket and signing key up to date; whether the installation is new.

    A new one's platform keys are given to `keep`, and to nobody else ever: where keeping them fails, they are not made.
    Raises ValueError where `database_admin_url` is not set, ConnectionError, OSError where there is no signing key and
    none can be made, and what `keep` raises.
    """
    if settings.database_admin_url is None:
        raise ValueError("TSUGIKI_DATABASE_ADMIN_URL is needed to migrate.")
    keys.create(settings.signing_key_file)
    runtime = build(settings)
    try:
        migrations.upgrade(settings.database_admin_url.get_secret_value(), settings.database_url.get_secret_value())
        runtime.objects.ensure_bucket()
        runtime.locked.ensure_bucket()
        if settings.audit_signing_key_file is not None:
            _ensure_key(settings.audit_signing_key_file)
        with runtime.sealer() as session:
            audit_months.ensure(session)
        return _keep_first_keys(runtime, keep)
    except OperationalError as error:
        raise ConnectionError("The database cannot be reached, or refuses the administrator.") from error
    except StorageUnavailable as error:
        raise ConnectionError("The object storage cannot be reached, or refuses the keys.") from error
    finally:
        runtime.close()


def _keep_first_keys(runtime: Runtime, keep: Callable[[PlatformKeys], None]) -> bool:
    with runtime.platform() as session:
        if not installation.is_new(session):
            return False
        keep(installation.create_platform_keys(session))
        return True


def _ensure_key(secret: Path) -> None:
    """Make the key that signs the audit trail's checkpoints where there is none; its public key beside it."""
    if secret.exists():
        return
    private, public = checkpoints.new_key()
    secret.with_suffix(".pub.pem").write_text(public)
    # Last: where it is, its public key is too.
    write_private(secret, private)


__all__ = ["PlatformKeys", "prepare"]
