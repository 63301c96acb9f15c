"""Why embedded services do not start. Messages are for the operator."""

# ruff: noqa: N818 - an error is named for the fact


class EmbeddedServicesError(Exception):
    """The root of this package's errors."""


class ServerNotInstalled(EmbeddedServicesError):
    """A server's program is not there; the message says how to install it."""


class DataDirectoryInUse(EmbeddedServicesError):
    """Another process runs services on the directory; the message names its process id."""


class SecretsMissing(EmbeddedServicesError):
    """The directory has data of servers, but their passwords are gone."""


class NoUserForPostgres(EmbeddedServicesError):
    """We are root, and there is no way here to run PostgreSQL as somebody else."""


class ServerDidNotStart(EmbeddedServicesError):
    """A server ended or stayed unready. The message ends with the last lines of its log."""
