"""What an outsider can check offline: the audit trail's canonical bytes, seals and checkpoints, and their verifier.

Nothing here needs the service. The sealer writes with the same definitions; `verify` trusts none of its tables.
"""
