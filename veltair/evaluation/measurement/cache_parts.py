"""Parts of the L3 for the tenants of policies that give each cores of its own, while they are measured."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from veltair.machine.topology.resctrl import ROOT, parted_l3
from veltair.serving.loop.policy import Policy


@runtime_checkable
class Partitioned(Protocol):
    """A policy whose tenants never run on each other's cores."""

    @property
    def partition_core_ids(self) -> Mapping[str, tuple[int, ...]]:
        """The core ids of each model's partition."""


@contextmanager
def cache_parts(policy: Policy, name: str, root: Path = ROOT) -> Iterator[None]:
    """Give each partition of a policy a part of the L3 until the end, if it has partitions.

    A line says what was done, or that the machine does not offer it. Raises ResctrlError if the L3 cannot be
    parted so.
    """
    if not isinstance(policy, Partitioned):
        yield
        return
    with parted_l3(policy.partition_core_ids, root) as told:
        print(f"{name}: {told}", flush=True)
        yield
