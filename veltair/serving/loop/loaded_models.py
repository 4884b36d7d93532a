"""Which models are in bounded memory, for a policy that says so itself; what it asks for is checked here."""

from collections.abc import Collection

from veltair.machine.models.memory_budget import Residency
from veltair.serving.loop.policy import LoadUnderWay, MemoryLimits
from veltair.serving.loop.policy_error import PolicyError


class LoadedModels:
    """The models of one run, kept by loads, evictions and blocks; none is resident at first.

    Raises PolicyError, naming the policy, for a load or an eviction that cannot be, and for a block of a
    model that is not resident.
    """

    def __init__(self, policy: str, limits: MemoryLimits) -> None:
        """Begin with nothing loaded. `policy` is the name that errors give."""
        self._policy, self._limits = policy, limits
        self._residency = Residency(limits.budget_bytes)
        self.resident: Collection[str] = self._residency.resident_view
        self.load: LoadUnderWay | None = None

    def begin(self, model: str, time_s: float) -> None:
        """Begin a load."""
        limits, residency = self._limits, self._residency
        if model not in limits.model_bytes:
            raise PolicyError(f"{self._policy} loads {model}, which is not served")
        if model in self.resident:
            raise PolicyError(f"{self._policy} loads {model}, which is resident")
        if self.load is not None:
            raise PolicyError(
                f"{self._policy} loads {model} while the load of {self.load.model} is under way; wait for "
                "its end"
            )
        needed, free = limits.model_bytes[model], residency.free_bytes
        if needed > free:
            raise PolicyError(
                f"{self._policy} loads {model}, which takes {needed / 1e6:.1f} MB, but {free / 1e6:.1f} MB "
                f"of {limits.budget_bytes / 1e6:.1f} MB are free; evict others first"
            )
        residency.begin(model, needed)
        self.load = LoadUnderWay(model, time_s + limits.load_s[model])

    def end(self) -> None:
        """End the load under way."""
        assert self.load is not None
        self._residency.end(self.load.model, self._limits.model_bytes[self.load.model])
        self.load = None

    def evict(self, model: str) -> None:
        """Take a model out."""
        try:
            self._residency.evict(model)
        except (LookupError, ValueError) as error:
            raise PolicyError(f"{self._policy} evicts {model}: {error}") from None

    def acquire(self, model: str) -> None:
        """Let a block of a model run."""
        if model not in self.resident:
            raise PolicyError(
                f"{self._policy} starts a block of {model}, which is not resident; load it first"
            )
        self._residency.acquire(model)

    def release(self, model: str) -> None:
        """Let a block of a model have ended."""
        self._residency.release(model)
