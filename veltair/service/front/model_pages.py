"""What a tenant's models are and what became of requests for them, as the protocol has it."""

from collections.abc import Sequence
from functools import lru_cache

from veltair.service.engine.link import Tensor
from veltair.service.front.desk import Desk
from veltair.service.keys.tenant_keys import TenantKeys
from veltair.service.models.registry import Entry
from veltair.service.tenancy.statistics import Spent
from veltair.wire.datatypes import datatype_of
from veltair.wire.messages import (
    BatchStatistics,
    ConfigTensor,
    Duration,
    IndexEntry,
    InferStatistics,
    ModelConfig,
    ModelMetadata,
    ModelStatistics,
    ServerMetadata,
    Statistics,
    TensorMetadata,
)

NAME = PLATFORM = "veltair"
EXTENSIONS = (
    "binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics",
    "veltair_raw_upload",
)  # fmt: skip


class ModelPages:
    """All that is only read. Methods raise ServiceError for what is not the tenant's, or not served."""

    def __init__(self, desk: Desk, version: str) -> None:
        """`version` is the service's own."""
        self._desk, self._version = desk, version

    def server(self) -> ServerMetadata:
        """Return what the service is."""
        return ServerMetadata(NAME, self._version, list(EXTENSIONS))

    def metadata(self, tenant: TenantKeys, name: str, version: str) -> ModelMetadata:
        """Return what a model takes and gives."""
        entry = self._desk.entry(tenant, name, version)
        model = self._desk.described(entry)
        return ModelMetadata(
            entry.name,
            [str(one) for one in self._desk.versions(entry)],
            PLATFORM,
            [tensor_metadata(one) for one in model.inputs],
            [tensor_metadata(one) for one in model.outputs],
        )

    def configuration(self, tenant: TenantKeys, name: str, version: str) -> ModelConfig:
        """Return what clients of Triton ask before they send."""
        entry = self._desk.entry(tenant, name, version)
        model = self._desk.described(entry)
        return ModelConfig(
            entry.name,
            PLATFORM,
            NAME,
            0,
            [ConfigTensor.of(tensor_metadata(one)) for one in model.inputs],
            [ConfigTensor.of(tensor_metadata(one)) for one in model.outputs],
        )

    def statistics(self, tenant: TenantKeys, name: str, version: str) -> Statistics:
        """Return what became of requests for a version, all versions, or without a name all models."""
        entries: Sequence[Entry] = self._desk.index(tenant)
        if name:
            asked = self._desk.entry(tenant, name, version)
            entries = [one for one in entries if one.name == asked.name and (not version or one == asked)]
        return Statistics([self._statistics_of(one) for one in entries if one.state.is_served])

    def index(self, tenant: TenantKeys, ready: bool) -> list[IndexEntry]:
        """Return all versions of a tenant's models, or those that are ready."""
        return [index_entry(one) for one in self._desk.index(tenant, ready)]

    def _statistics_of(self, entry: Entry) -> ModelStatistics:
        found = self._desk.statistics(entry)
        steps = [_duration(one) for one in (found.compute_input, found.compute_infer, found.compute_output)]
        return ModelStatistics(
            entry.name,
            str(entry.version),
            found.last_ms,
            found.success.times,
            found.success.times,
            InferStatistics(
                success=_duration(found.success),
                fail=_duration(found.fail),
                queue=_duration(found.queue),
                compute_input=steps[0],
                compute_infer=steps[1],
                compute_output=steps[2],
            ),
            [BatchStatistics(1, *steps)] if found.success.times else [],
        )


def index_entry(entry: Entry) -> IndexEntry:
    """Return the line of an index that a version is."""
    return IndexEntry(entry.name, str(entry.version), entry.state.value, entry.reason)


@lru_cache(4096)
def tensor_metadata(tensor: Tensor) -> TensorMetadata:
    """Return what the protocol calls an input or output."""
    return TensorMetadata(tensor.name, datatype_of(tensor.dtype), list(tensor.shape))


def _duration(found: Spent) -> Duration:
    return Duration(found.times, found.ns)
