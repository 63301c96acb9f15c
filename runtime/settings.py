"""The settings, and the only reader of the environment. Each is `TSUGIKI_` and its name in capitals."""

import ctypes
import json
import os
import sys
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.addresses import parse_networks
from domain.identities import parse_groups
from domain.plans import Device, Precision, Quantisation
from runtime.failpoints import checked_armings
from runtime.tokens import checked_url

# Where a process finds its settings when they were handed over in an inherited file, not in the environment:
# a worker's ranks could read their parent's environment.
_SETTINGS_FD = "TSUGIKI_SETTINGS_FD"
_PR_SET_DUMPABLE = 4  # linux/prctl.h


def _checked_networks(text: str | None) -> str | None:
    parse_networks(text)
    return text


def _checked_issuer(url: str | None) -> str | None:
    return url if url is None else checked_url(url)


def _checked_groups(text: str | None) -> str | None:
    parse_groups(text)
    return text


def _checked_algorithms(text: str) -> str:
    # Only such as need a key that is public: whoever knows the key must not be able to sign.
    if not set(text.split(",")) <= {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"}:
        raise ValueError("not an algorithm of public keys")
    return text


class Settings(BaseSettings):
    """Every setting of every process. Times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="TSUGIKI_", extra="forbid", frozen=True)

    database_url: SecretStr = Field(description="PostgreSQL 18 as the role tsugiki_app: postgresql+psycopg://…")
    database_admin_url: SecretStr | None = Field(
        default=None, description="PostgreSQL as an administrator; only `tsugiki migrate` uses it."
    )
    broker_url: SecretStr = Field(description="Valkey or Redis: redis://…")
    s3_endpoint: str | None = Field(default=None, description="S3 endpoint; none for AWS itself.")
    s3_region: str = "us-east-1"
    s3_bucket: str = "tsugiki"
    s3_audit_bucket: str = Field(default="tsugiki-audit", description="Bucket with Object Lock, of checkpoints.")
    s3_access_key: SecretStr = Field(description="Access key id.")
    s3_secret_key: SecretStr = Field(description="Secret access key.")

    signing_key_file: Path = Field(
        description="The key that versions are signed with, PEM, its owner's alone; `tsugiki migrate` makes it."
    )

    organisation: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$")] = Field(
        default="org", description="Names the organisation in fine-tuned models' names."
    )
    host: str = Field(default="127.0.0.1", description="Address the API listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8000, description="Port the API listens on.")
    log_level: str = "INFO"

    cache_dir: Path = Field(default=Path("/var/tmp/tsugiki/cache"), description="A node's cache of base models.")  # noqa: S108
    work_dir: Path = Field(default=Path("/var/tmp/tsugiki/work"), description="Scratch space of uploads and runs.")  # noqa: S108

    lease_s: Annotated[float, Field(gt=0)] = Field(default=60, description="How long a worker may be silent.")
    sweep_every_s: Annotated[float, Field(gt=0)] = Field(default=15, description="How often the sweeper looks.")
    nudge_after_s: Annotated[float, Field(ge=0)] = Field(
        default=30, description="A waiting job not rung for this long is rung for again."
    )
    fair_share_half_life_s: Annotated[float, Field(gt=0)] = Field(
        default=86_400, description="In which a department's use of devices counts for half when shares are compared."
    )
    batch_jobs: Annotated[int, Field(ge=1, le=64)] = Field(
        default=8, description="Small jobs of a department on one base model that a worker trains together."
    )
    batch_max_tokens: Annotated[int, Field(ge=0)] = Field(
        default=50_000, description="Tokens of a small job, over all its epochs."
    )
    preempt_after_s: Annotated[float, Field(ge=0)] = Field(
        default=60, description="A job that waited so long may take the place of a less urgent one, where allowed."
    )
    checkpoint_ttl_days: Annotated[float, Field(gt=0)] = Field(
        default=30, description="How long a finished job's checkpoints are kept."
    )
    orphan_after_s: Annotated[float, Field(ge=0)] = Field(
        default=86_400, description="Objects that no row names are erased when they are this old."
    )
    storage_sweep_every_s: Annotated[float, Field(gt=0)] = Field(
        default=3600, description="How often a department's objects are looked at."
    )
    stop_grace_s: Annotated[float, Field(gt=0)] = Field(
        default=25, description="Time for a checkpoint when a run is stopped; then its ranks are killed."
    )
    hang_after_s: Annotated[float, Field(gt=0)] = Field(
        default=900, description="Ranks that report no progress for this long are killed."
    )

    ranks: Annotated[int, Field(ge=1)] = Field(default=2, description="Ranks of a training job.")
    threads_per_rank: Annotated[int, Field(ge=1)] = 1
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    quantisation: Quantisation = Field(default=Quantisation.NONE, description="How the frozen base is kept in memory.")
    activation_checkpointing: bool = Field(
        default=False, description="Recompute activations instead of keeping them: less memory, a third more work."
    )
    token_budget: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Tokens of a pass on one rank; none for what was measured to be fastest."
    )
    prewarm: bool = Field(default=True, description="Keep an engine process that is ready for the next job.")

    key_max_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default=90, description="How long a key lives at most, and where it is not said."
    )
    session_hours: Annotated[float, Field(gt=0, le=168)] = Field(
        default=12, description="How long a signed-in session lasts."
    )
    oidc_issuer: Annotated[str | None, AfterValidator(_checked_issuer)] = Field(
        default=None, description="The OpenID provider that people sign in with; none where they do not."
    )
    oidc_client_id: str | None = Field(default=None, description="This service's name at it: its tokens' audience.")
    oidc_algorithms: Annotated[str, AfterValidator(_checked_algorithms)] = Field(
        default="RS256", description="With which it signs, separated by commas."
    )
    oidc_groups: Annotated[str | None, AfterValidator(_checked_groups)] = Field(
        default=None, description="What its groups are here: GROUP=DEPARTMENT:ROLE+ROLE, separated by commas."
    )
    oidc_trust_email: bool = Field(
        default=False, description="Find people by an e-mail address that the provider has not verified."
    )
    grant_max_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default=90, description="How long a file's content or a version is granted at most, and where it is not said."
    )
    closed_kept_days: Annotated[float, Field(ge=0)] = Field(
        default=30, description="How long the objects and rows of a closed department are kept."
    )

    price_per_gpu_hour: Annotated[Decimal, Field(ge=0, decimal_places=6)] = Field(
        default=Decimal(0), description="What an hour of one rank of this worker costs its departments."
    )
    price_per_gb_month: Annotated[Decimal, Field(ge=0, decimal_places=6)] = Field(
        default=Decimal(0), description="What a month of 10^9 stored bytes costs."
    )
    currency: Annotated[str, Field(pattern="^[a-z]{3}$")] = Field(
        default="usd", description="Of all prices and budgets: ISO 4217 in small letters."
    )

    audit_seal_every_s: Annotated[float, Field(gt=0)] = Field(
        default=1, description="How often the sealer seals what was committed to the audit trail."
    )
    audit_signing_key_file: Path | None = Field(
        default=None, description="The sealer's Ed25519 private key, PEM; none: no checkpoints are signed."
    )
    audit_checkpoint_every_s: Annotated[float, Field(gt=0)] = Field(
        default=3600, description="How often it is signed where the audit trail's chains stand."
    )
    audit_checkpoint_file: Path | None = Field(
        default=None, description="A file kept by an outsider, to which each checkpoint is appended."
    )
    audit_checkpoint_kept_days: Annotated[float, Field(gt=0)] = Field(
        default=2557, description="How long the object store keeps a checkpoint from everybody."
    )
    audit_kept_months: Annotated[int, Field(ge=1)] = Field(
        default=24, description="Months of the audit trail that are kept; of older ones a manifest stays."
    )
    audit_export_max_rows: Annotated[int, Field(ge=1)] = Field(
        default=100_000, description="Events in an answer; a larger export is written in the background."
    )

    max_body_bytes: Annotated[int, Field(ge=1)] = Field(default=1 << 20, description="A JSON body's size.")
    max_file_bytes: Annotated[int, Field(ge=1)] = Field(default=512 << 20, description="An uploaded file's size.")
    max_base_model_file_bytes: Annotated[int, Field(ge=1)] = Field(
        default=50 << 30, description="A weights file's size."
    )
    max_unfinished_jobs: Annotated[int, Field(ge=1)] = Field(default=500, description="A department's, at a time.")
    max_total_steps: Annotated[int, Field(ge=1)] = Field(default=100_000, description="Optimiser steps of one job.")
    max_pending_estimates: Annotated[int, Field(ge=1)] = Field(
        default=4, description="A department's estimates whose rows wait to be counted, at a time."
    )
    estimate_wait_s: Annotated[float, Field(ge=0)] = Field(
        default=3, description="How long the answer to a new estimate is held back for its rows to be counted."
    )
    estimate_kept_s: Annotated[float, Field(gt=0)] = Field(
        default=3600, description="How long an estimate can be asked for again."
    )
    inspection_kept_s: Annotated[float, Field(gt=0)] = Field(
        default=604_800, description="How long what rows were counted to come to is used again."
    )
    max_training_tokens: Annotated[int, Field(ge=1)] = Field(
        default=1_000_000_000, description="Tokens of one job, over all its epochs."
    )
    receiver_networks: Annotated[str | None, AfterValidator(_checked_networks)] = Field(
        default=None, description="Private networks that webhooks may lead to, separated by commas: 10.1.0.0/16."
    )
    outgoing_kept_days: Annotated[float, Field(gt=0)] = Field(
        default=30, description="How long it is kept what was told to whom."
    )
    openlineage_url: str | None = Field(default=None, description="Where each job's OpenLineage events are sent.")
    openlineage_api_key: SecretStr | None = Field(default=None, description="Bearer token of that endpoint.")
    protected_aliases: Annotated[str, Field(pattern=r"^[A-Za-z0-9._,-]*$")] = Field(
        default="production", description="Aliases, by commas, that stand for approved versions only."
    )
    approval_ttl_days: Annotated[float, Field(gt=0, le=365)] = Field(
        default=14, description="How long a request for approval waits for decisions."
    )
    failpoints: Annotated[str | None, AfterValidator(checked_armings)] = Field(
        default=None, description="Points at which this process fails on purpose; for tests of faults only."
    )

    @property
    def protected(self) -> frozenset[str]:
        """protected_aliases as names."""
        return frozenset(filter(None, self.protected_aliases.split(",")))

    @property
    def checkpoint_ttl(self) -> timedelta:
        """checkpoint_ttl_days as a time."""
        return timedelta(days=self.checkpoint_ttl_days)

    @property
    def key_max_age(self) -> timedelta:
        """key_max_days as a time."""
        return timedelta(days=self.key_max_days)

    @property
    def session_age(self) -> timedelta:
        """session_hours as a time."""
        return timedelta(hours=self.session_hours)

    @property
    def closed_kept(self) -> timedelta:
        """closed_kept_days as a time."""
        return timedelta(days=self.closed_kept_days)

    @property
    def grant_max_age(self) -> timedelta:
        """grant_max_days as a time."""
        return timedelta(days=self.grant_max_days)


def load() -> Settings:
    """The settings of this process: from the inherited file where there is one, else from the environment.

    The file can be read once: whoever looks at this process's open files later finds no secret there.
    """
    handed_over = os.environ.pop(_SETTINGS_FD, None)
    if handed_over is None:
        return Settings()
    with os.fdopen(int(handed_over), "rb") as stream:
        stream.seek(0)
        return Settings.model_validate_json(stream.read())


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables that `load` reads back as these settings, secrets among them."""
    variables = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if value is not None:
            shown = value.get_secret_value() if isinstance(value, SecretStr) else value
            variables[f"TSUGIKI_{name.upper()}"] = str(shown)
    return variables


def exec_without_secrets(settings: Settings, argv: list[str]) -> None:
    """Replace this process by `argv` with no setting in its environment: they go in an anonymous inherited file.

    A new program starts with a new environment block, so that /proc/<pid>/environ shows none of them either.
    """
    payload = {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings.model_dump().items()
    }
    descriptor = os.memfd_create("tsugiki-settings", 0)
    os.write(descriptor, _json(payload))
    os.set_inheritable(descriptor, True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TSUGIKI_")}
    os.execve(argv[0], argv, environment | {_SETTINGS_FD: str(descriptor)})  # noqa: S606 - an argument list of our own


def hide_memory() -> None:
    """Close this process's memory, environment and open files to other processes of its user. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _json(payload: dict[str, object]) -> bytes:
    import_safe = {name: str(value) if isinstance(value, Path | Decimal) else value for name, value in payload.items()}
    return json.dumps(import_safe).encode()
