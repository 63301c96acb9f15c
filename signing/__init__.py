"""Signatures: the one home of the signing key and of the libraries that use it. `tsugiki verify` imports it too.

What verifies needs `cryptography` alone; what signs a folder, `signing.folders`, needs the OpenSSF library as well.
"""
