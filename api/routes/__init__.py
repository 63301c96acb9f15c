"""One module a noun; each gives its `router`."""

from api.routes import (
    adapters,
    audit,
    base_models,
    break_glass,
    costs,
    departments,
    deployments,
    estimates,
    file_grants,
    files,
    jobs,
    keys,
    limits,
    lineage,
    members,
    models,
    principals,
    role_grants,
    service_accounts,
    shares,
    usage,
    users,
    webhooks,
    workers,
)

# In the order in which the OpenAPI document shows them.
ROUTERS = tuple(
    noun.router
    for noun in (
        principals,
        models,
        base_models,
        files,
        file_grants,
        jobs,
        estimates,
        adapters,
        shares,
        lineage,
        deployments,
        departments,
        users,
        members,
        service_accounts,
        keys,
        role_grants,
        break_glass,
        limits,
        usage,
        costs,
        audit,
        webhooks,
        workers,
    )
)
