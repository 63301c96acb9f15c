"""Logging of our processes: one line an event, to standard error, times in UTC."""

import logging
import time


def configure(level: str) -> None:
    """Set up the root logger once a process."""
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Every S3 request and every connection of theirs is noise at our level.
    for name in ("botocore", "boto3", "urllib3", "alembic"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
