"""Which models may be in memory: a budget, and the least recently used gives way."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CannotLoad:
    """Why a model cannot be loaded now; as text, what to do about it.

    `fixed_bytes` are the bytes by name of what cannot give way: models in use. `loading` is the model whose
    load must end first, if any.
    """

    model: str
    needed_bytes: int
    budget_bytes: int
    fixed_bytes: Mapping[str, int]
    loading: str = ""

    @property
    def is_final(self) -> bool:
        """Whether waiting does not help: the model alone is larger than the budget."""
        return self.needed_bytes > self.budget_bytes

    def __str__(self) -> str:
        needs = f"{self.model} needs up to {_megabytes(self.needed_bytes)}"
        budget = f"the budget of {_megabytes(self.budget_bytes)}"
        if self.is_final:
            return f"{needs}, more than {budget}; raise it, or load fewer versions of its layers"
        if self.loading:
            return f"{self.model} cannot be loaded while {self.loading} is; wait for the end of that load"
        held = ", ".join(f"{name} ({_megabytes(size)})" for name, size in self.fixed_bytes.items())
        return f"{needs}, but of {budget} are in use by queries: {held}; wait for their end, or raise it"


@dataclass(slots=True)
class _Held:
    nbytes: int
    users: int = 0


class Residency:
    """The account of a budget in bytes: which models are resident, which are in use, which give way to which.

    A load has two ends: `begin` says who must go and reserves the room, `end` or `abandon` closes it. One is
    under way at a time. A model in use, or under way, never gives way.
    """

    def __init__(self, budget_bytes: int) -> None:
        """Begin with nothing resident."""
        if budget_bytes < 1:
            raise ValueError(f"a memory budget of {budget_bytes} bytes holds no model; give 1 or more")
        self.budget_bytes = budget_bytes
        self._resident: dict[str, _Held] = {}  # the least recently used first
        self._loading: dict[str, int] = {}

    @property
    def resident(self) -> tuple[str, ...]:
        """The models that can be used at once, the least recently used first."""
        return tuple(self._resident)

    @property
    def resident_view(self) -> Collection[str]:
        """The same, as a live view."""
        return self._resident.keys()

    @property
    def loading(self) -> str:
        """The model whose load is under way, or the empty text."""
        return next(iter(self._loading), "")

    @property
    def held_bytes(self) -> int:
        """Bytes of all resident models and of the one that is being loaded; never above the budget."""
        return sum(held.nbytes for held in self._resident.values()) + sum(self._loading.values())

    def users(self, model: str) -> int:
        """Return how many use a resident model; 0 if it is not resident."""
        held = self._resident.get(model)
        return held.users if held else 0

    def refusal(self, model: str, nbytes: int) -> CannotLoad | None:
        """Return why room for a model cannot be made now; None if it can."""
        fixed = {name: held.nbytes for name, held in self._resident.items() if held.users}
        if self._loading or sum(fixed.values()) + nbytes > self.budget_bytes:
            return CannotLoad(model, nbytes, self.budget_bytes, fixed, self.loading)
        return None

    def begin(self, model: str, nbytes: int) -> tuple[str, ...]:
        """Reserve room for a load and return the models that give way, no more than needed.

        Raises ValueError if the model is there already, or `refusal` has a reason.
        """
        if model in self._resident:
            raise ValueError(f"{model} is resident; use it, do not load it again")
        if refused := self.refusal(model, nbytes):
            raise ValueError(str(refused))
        leaving = []
        free_bytes = self.budget_bytes - self.held_bytes
        for name, held in self._resident.items():
            if free_bytes >= nbytes:
                break
            if not held.users:
                leaving.append(name)
                free_bytes += held.nbytes
        for name in leaving:
            del self._resident[name]
        self._loading[model] = nbytes
        return tuple(leaving)

    def end(self, model: str, nbytes: int) -> None:
        """Close a load that succeeded: the model is resident with its true size, and counts as just used.

        Raises LookupError if no such load is under way, ValueError if the model is larger than reserved.
        """
        reserved = self._close(model)
        if nbytes > reserved:
            raise ValueError(f"{model} holds {nbytes} bytes but had asked for {reserved}; unload it")
        self._resident[model] = _Held(nbytes)

    @property
    def free_bytes(self) -> int:
        """Bytes that a load would find without anybody giving way."""
        return self.budget_bytes - self.held_bytes

    def evict(self, model: str) -> None:
        """Let a model that nobody uses give way at once.

        Raises LookupError if it is not resident, ValueError if it is in use.
        """
        if model not in self._resident:
            raise LookupError(f"{model} is not resident, only {list(self._resident)}; evict one of these")
        if users := self.users(model):
            raise ValueError(f"{model} is in use by {users}; wait for their end before it is evicted")
        del self._resident[model]

    def abandon(self, model: str) -> None:
        """Close a load that failed: its room is free. Raises LookupError if none is under way."""
        self._close(model)

    def acquire(self, model: str) -> None:
        """Use a model: it stays, and is the most recently used. Raises LookupError if it is not resident."""
        held = self._move_last(model)
        held.users += 1

    def release(self, model: str) -> None:
        """Stop using a model, once for each `acquire`. Raises LookupError if nobody uses it."""
        if not self.users(model):
            raise LookupError(f"{model} is released but nobody uses it; release once for each acquire")
        self._move_last(model).users -= 1

    def release_all(self) -> None:
        """Let nobody use any model any more; the order of last use stays."""
        for held in self._resident.values():
            held.users = 0

    def _close(self, model: str) -> int:
        if model not in self._loading:
            raise LookupError(f"no load of {model} is under way; begin it first")
        return self._loading.pop(model)

    def _move_last(self, model: str) -> _Held:
        if model not in self._resident:
            raise LookupError(f"{model} is not resident, only {list(self._resident)}; load it first")
        held = self._resident.pop(model)
        self._resident[model] = held
        return held


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"
