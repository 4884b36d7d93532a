"""The keys of a service: `service` and all below it, in a file of its own."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from veltair.config.load import ConfigError, parse_group
from veltair.config.section import FilePath, FolderPath, ImportPath, Name, Section, key
from veltair.config.yaml_file import YamlError, read_yaml
from veltair.service.keys.builder_keys import BuilderKeys
from veltair.service.keys.tenant_keys import Digest, TenantKeys, TenantsKeys

Address = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):[0-9]{1,5}$")]
LOCAL = "local"
"""The tenant of a service that names none."""


class PolicyKeys(Section):
    """Who decides: a policy by its import path, as in a workflow's configuration."""

    path: Annotated[ImportPath, key("`package.module:Class` of the policy")]
    preset: Annotated[Literal["paper", "tuned"], key("where its options come from")] = "tuned"
    options: Annotated[dict[str, Any], key("options over those of the preset")] = Field(default_factory=dict)


class OperatorKeys(Section):
    """The operator's side: metrics of all tenants, and drain."""

    http: Annotated[Address, key("HOST:PORT that it listens on, for operators only")] = "127.0.0.1:8002"
    token_sha256: Annotated[Digest, key("SHA-256 of the operator's bearer token in hexadecimal")]


class FirstModelKeys(Section):
    """A model that is there from the start, as if its tenant had uploaded it."""

    name: Annotated[Name, key("its name in requests")]
    version: Annotated[int, key("its version", ge=1, le=999_999_999)] = 1
    tenant: Annotated[Name, key("whose it is")] = LOCAL
    onnx: Annotated[FilePath | None, key("its file")] = None
    builder: Annotated[ImportPath | None, key("`module:function` that makes it, in place of a file")] = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.onnx is None) == (self.builder is None):
            raise ValueError(f"models: {self.name} has both or neither of `onnx` and `builder`; give one")
        return self


class ServiceKeys(TenantsKeys):
    """The keys of a service. Without `tenants` it has one, `local`."""

    tenants: Annotated[
        tuple[TenantKeys, ...], key("who may use the service, each with its token; none: `local` only")
    ] = ()
    http: Annotated[Address, key("HOST:PORT that it listens on; port 0 takes a free one")] = "127.0.0.1:8000"
    grpc: Annotated[Address | None, key("HOST:PORT for gRPC; null: none is served")] = None
    operator: Annotated[OperatorKeys | None, key("metrics and drain; null: none are served")] = None
    folder: Annotated[FolderPath, key("where it keeps models, and all else that outlives it")] = (
        "results/service"
    )
    policy: Annotated[PolicyKeys, key("who gets which cores, when")] = PolicyKeys(
        path="veltair.serving.policies.adaptive:VeltairFULL"
    )
    placement: Annotated[
        Literal["spread", "pinned"], key("blocks spread over all caches, or on as few as possible")
    ] = "spread"
    memory_mb: Annotated[float, key("weights of models in memory at once", "MB", gt=0)] = 4_000.0
    drain_s: Annotated[float, key("how long requests may still take when it ends", "s", ge=0)] = 30.0
    builder: Annotated[BuilderKeys, key("what the building of an uploaded model may use")] = BuilderKeys()
    models: Annotated[tuple[FirstModelKeys, ...], key("models that are there from the start")] = ()

    @model_validator(mode="after")
    def _owned(self) -> Self:
        names = {tenant.name for tenant in self.tenants} or {LOCAL}
        for model in self.models:
            if model.tenant not in names:
                raise ValueError(
                    f"models: {model.name} is of tenant {model.tenant}, which is not one of "
                    f"{', '.join(sorted(names))}; name one of them"
                )
        return self


def host_and_port(address: str) -> tuple[str, int]:
    """Return the parts of HOST:PORT."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class ServiceFile(Section):
    """A file that configures a service."""

    service: Annotated[ServiceKeys, key("the service")]


def read_service(path: Path) -> ServiceKeys:
    """Return what a file says of a service. Raises ConfigError with all that is wrong with it."""
    try:
        values = read_yaml(path)
    except YamlError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, not keys with values; see docs/service.md")
    return parse_group(ServiceFile, values, str(path)).service
