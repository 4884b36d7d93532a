"""What a tenant's models are and what became of requests for them, over HTTP."""

from typing import Any

from veltair.service.desk import Desk
from veltair.service.http_answers import Reply, json_reply, no_path
from veltair.service.http_tensors import DATATYPES
from veltair.service.link import Tensor
from veltair.service.registry import Entry
from veltair.service.statistics import ModelStatistics, Spent
from veltair.service.tenant_keys import TenantKeys

EXTENSIONS = (
    "binary_tensor_data", "model_configuration", "model_repository", "schedule_policy", "statistics",
    "veltair_raw_upload",
)  # fmt: skip
PLATFORM = "onnx_veltair"


class ModelPages:
    """All that is under `v2` and `v2/models` and only read."""

    def __init__(self, desk: Desk, version: str) -> None:
        """`version` is the service's own."""
        self._desk, self._version = desk, version

    def answer(self, tenant: TenantKeys, parts: tuple[str, ...]) -> Reply:
        """Return a page. Raises ServiceError."""
        match parts:
            case ():
                return json_reply(
                    {"name": "veltair", "version": self._version, "extensions": list(EXTENSIONS)}
                )
            case ("models", "stats"):
                return self._statistics(self._desk.index(tenant))
            case ("models", name):
                return self._page(tenant, name, "", "")
            case ("models", name, "versions", version):
                return self._page(tenant, name, version, "")
            case ("models", name, "versions", version, page):
                return self._page(tenant, name, version, page)
            case ("models", name, page):
                return self._page(tenant, name, "", page)
        raise no_path()

    def _page(self, tenant: TenantKeys, name: str, version: str, page: str) -> Reply:
        entry = self._desk.entry(tenant, name, version)
        match page:
            case "ready":
                return self._ready(entry)
            case "":
                return json_reply(self._metadata(entry))
            case "config":
                return json_reply(self._configuration(entry))
            case "stats":
                every = self._desk.index(tenant)
                same = [one for one in every if one.name == entry.name and (not version or one == entry)]
                return self._statistics(same)
        raise no_path()

    def _ready(self, entry: Entry) -> Reply:
        if self._desk.is_ready(entry):
            return json_reply({"name": entry.name, "ready": True})
        return json_reply({"error": f"{entry.name} is {entry.state}"}, code=400)

    def _metadata(self, entry: Entry) -> dict[str, Any]:
        model = self._desk.described(entry)
        return {
            "name": entry.name,
            "versions": [str(one) for one in self._desk.versions(entry)],
            "platform": PLATFORM,
            "inputs": [_tensor(one) for one in model.inputs],
            "outputs": [_tensor(one) for one in model.outputs],
        }

    def _configuration(self, entry: Entry) -> dict[str, Any]:
        model = self._desk.described(entry)
        return {
            "name": entry.name,
            "platform": PLATFORM,
            "backend": "veltair",
            "max_batch_size": 0,
            "version_policy": {"all": {}},
            "input": [_configured(one) for one in model.inputs],
            "output": [_configured(one) for one in model.outputs],
        }

    def _statistics(self, entries: Any) -> Reply:
        lines = [_statistics_of(one, self._desk.statistics(one)) for one in entries if one.state.is_served]
        return json_reply({"model_stats": lines})


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": list(tensor.shape)}


def _configured(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "data_type": f"TYPE_{DATATYPES[tensor.dtype]}", "dims": list(tensor.shape)}


def _statistics_of(entry: Entry, found: ModelStatistics) -> dict[str, Any]:
    return {
        "name": entry.name,
        "version": str(entry.version),
        "last_inference": found.last_ms,
        "inference_count": found.success.times,
        "execution_count": found.success.times,
        "inference_stats": {
            "success": _spent(found.success),
            "fail": _spent(found.fail),
            "queue": _spent(found.queue),
            "compute_input": _spent(found.compute_input),
            "compute_infer": _spent(found.compute_infer),
            "compute_output": _spent(found.compute_output),
            "cache_hit": _spent(Spent()),
            "cache_miss": _spent(Spent()),
        },
        "batch_stats": [],
    }


def _spent(found: Spent) -> dict[str, int]:
    return {"count": found.times, "ns": found.ns}
