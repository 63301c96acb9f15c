"""One module a noun; each gives its `router`."""

from api.routes import (
    adapters,
    audit,
    base_models,
    costs,
    departments,
    estimates,
    files,
    jobs,
    keys,
    limits,
    lineage,
    members,
    models,
    principals,
    service_accounts,
    usage,
    users,
    webhooks,
    workers,
)

# In the order in which the OpenAPI document shows them.
ROUTERS = (
    principals.router, models.router, base_models.router, files.router, jobs.router, estimates.router, adapters.router,
    lineage.router, departments.router, users.router, members.router, service_accounts.router, keys.router,
    limits.router, usage.router, costs.router, audit.router, webhooks.router, workers.router,
)  # fmt: skip
