"""Tenants whose tokens are known."""

from hashlib import sha256
from typing import Any

from veltair.service.keys.tenant_keys import TenantKeys


def digest(token: str) -> str:
    """Return what of a token is kept."""
    return sha256(token.encode()).hexdigest()


def tenant_keys(name: str = "shop", token: str = "right", **others: Any) -> TenantKeys:
    """Return the keys of a tenant with one token."""
    return TenantKeys(name=name, token_sha256=digest(token), **others)
