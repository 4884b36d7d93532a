"""The pages of a tenant's models over HTTP."""

from veltair.service.front.desk import Desk
from veltair.service.front.http_answers import Reply, json_reply, no_path
from veltair.service.front.model_pages import ModelPages
from veltair.service.keys.tenant_keys import TenantKeys
from veltair.wire.messages import Readiness


def model_page(desk: Desk, pages: ModelPages, tenant: TenantKeys, parts: tuple[str, ...]) -> Reply:
    """Return what is under `v2` or `v2/models` and only read. Raises ServiceError."""
    match parts:
        case ():
            return json_reply(pages.server())
        case ("models", "stats"):
            return json_reply(pages.statistics(tenant, "", ""))
        case ("models", name, "versions", version, *rest) if len(rest) <= 1:
            return _page(desk, pages, tenant, name, version, "".join(rest))
        case ("models", name, *rest) if len(rest) <= 1:
            return _page(desk, pages, tenant, name, "", "".join(rest))
    raise no_path()


def _page(desk: Desk, pages: ModelPages, tenant: TenantKeys, name: str, version: str, page: str) -> Reply:
    match page:
        case "ready":
            entry = desk.entry(tenant, name, version)
            ready = desk.is_ready(entry)
            return json_reply(Readiness(entry.name, ready), code=200 if ready else 400)
        case "":
            return json_reply(pages.metadata(tenant, name, version))
        case "config":
            return json_reply(pages.configuration(tenant, name, version))
        case "stats":
            return json_reply(pages.statistics(tenant, name, version))
    raise no_path()
