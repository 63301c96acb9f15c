"""The words that a worker of `chaos.worker` is started with, beside those for its engine."""

REAL_ENGINE = "real-engine"
WITHOUT = "without:"
