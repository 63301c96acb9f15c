"""An installation's first start: schema, bucket, and the two keys it begins with."""

from runtime import migrations
from runtime.settings import Settings
from runtime.wiring import Runtime, build
from services import installation
from services.installation import PlatformKeys


def prepare(settings: Settings) -> PlatformKeys | None:
    """Bring schema and bucket up to date. The platform's keys where nobody had any: shown now or never.

    Raises ValueError where `database_admin_url` is not set.
    """
    if settings.database_admin_url is None:
        raise ValueError("TSUGIKI_DATABASE_ADMIN_URL is needed to migrate.")
    migrations.upgrade(settings.database_admin_url.get_secret_value(), settings.database_url.get_secret_value())
    runtime = build(settings)
    try:
        runtime.objects.ensure_bucket()
        return _first_keys(runtime)
    finally:
        runtime.close()


def _first_keys(runtime: Runtime) -> PlatformKeys | None:
    with runtime.platform() as session:
        return installation.create_platform_keys(session) if installation.is_new(session) else None
