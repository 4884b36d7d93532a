"""The keys of the service's tenants: who may ask, and for how much."""

from collections import Counter
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from veltair.config.section import Name, Section, key
from veltair.service.engine.link import TENANT_BYTES

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Of an old and a new token both are taken, so that a client can change from one to the other at any time.
MOST_TOKENS = 2


class AdmissionKeys(Section):
    """When a request is taken although its answer is only predicted."""

    percentile: Annotated[
        float,
        key("of the last measured ÷ predicted times of a model, the one that corrects its next", gt=0, le=1),
    ] = 0.99
    window: Annotated[int, key("how many of them are kept", "requests", ge=1)] = 10
    buffer_ms: Annotated[
        float, key("how long before its deadline a request must be predicted to end", "ms", ge=0)
    ] = 5.0


class TenantKeys(Section):
    """One tenant of the service: its tokens, its part of the machine and the bounds of what it may use."""

    name: Annotated[Name, key("its name, in logs and metrics of the operator", max_length=TENANT_BYTES)]
    token_sha256: Annotated[
        Digest | Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MOST_TOKENS)],
        key("SHA-256 of its bearer token in hexadecimal, or a list of two while it is being replaced"),
    ]
    weight: Annotated[
        float, key("its share of core-seconds when cores are short, relative to the others'", gt=0)
    ] = 1.0
    core_seconds_per_s: Annotated[
        float | None, key("cores that it may hold on average; null: no bound but its share", "cores", gt=0)
    ] = None
    rate: Annotated[float | None, key("requests that it may send on average", "requests/s", gt=0)] = None
    burst: Annotated[
        int, key("requests that it may send at once after a silence, with `rate`", "requests", ge=1)
    ] = 20
    in_flight: Annotated[int, key("requests of it that are under way at most", "requests", ge=1)] = 64
    queued_mb: Annotated[
        float, key("tensors of its requests under way, inputs and outputs, at most", "MB", gt=0)
    ] = 128.0
    models: Annotated[int, key("versions of models that it may keep", "models", ge=1)] = 10
    resident_mb: Annotated[
        float, key("weights of its models that others do not displace from memory", "MB", ge=0)
    ] = 0.0
    upload_mb: Annotated[float, key("bytes of one uploaded model at most", "MB", gt=0)] = 500.0
    compile_s_per_day: Annotated[
        float, key("seconds of the builder's work for it in a day at most", "s", gt=0)
    ] = 3600.0
    qos_ms: Annotated[float, key("deadline of a request that names none, from its arrival", "ms", gt=0)] = (
        100.0
    )

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests of its valid tokens."""
        return (self.token_sha256,) if isinstance(self.token_sha256, str) else self.token_sha256


class TenantsKeys(Section):
    """All tenants and how their requests are admitted."""

    admission: Annotated[AdmissionKeys, key("prediction of when a request would end")] = AdmissionKeys()
    tenants: Annotated[
        tuple[TenantKeys, ...], Field(min_length=1), key("who may use the service, each with its token")
    ]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = Counter(tenant.name for tenant in self.tenants)
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"tenants: name {twice[0]} is there twice; give each tenant its own")
        owners: dict[str, str] = {}
        for tenant in self.tenants:
            for digest in tenant.digests:
                if owners.setdefault(digest, tenant.name) != tenant.name:
                    raise ValueError(
                        f"tenants: {owners[digest]} and {tenant.name} have the token_sha256 {digest}; a "
                        "token belongs to one tenant, make another"
                    )
        return self
