"""What the processes of a service are started with."""

import msgspec

from veltair.serving.loop.policy import Context, Policy
from veltair.serving.policies.presets import make_policy

BACKLOG = 1024
"""Connections that wait to be taken."""


class EngineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By which policy an engine decides, and where C sources are compiled into."""

    name: str
    path: str
    preset: str
    options: dict[str, object]
    placement: str
    build_folder: str

    def policy(self, context: Context) -> Policy:
        """Return the policy, made anew for some models."""
        return make_policy(self.path, context, self.preset, self.options)


class FrontSettings(msgspec.Struct, frozen=True):
    """What the front is started with: the service's keys as JSON, and where all else is.

    `token` is the file with the token of the tenant `local`, where that is the only one. `models` are the
    files of the models that are there from the start, in the order of the keys.
    """

    keys: msgspec.Raw
    engine: str
    machine: str
    token: str
    models: list[str]
