"""Policies with a spec as `decisions.c` decides for them, whichever loop asks."""

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from veltair.machine.c_library import CLibrary, KeptArrays
from veltair.serving.loop.policy import Context
from veltair.serving.policies.blocks import SCALES, TOLERANCE, UNSCALED
from veltair.serving.policies.discipline import Conflict, DropLate, Order
from veltair.serving.policies.native_spec import DecisionKind, NativePolicySpec


class NativePolicy:
    """A policy in C, made of its spec: as long as this object lives, `decider` is what a loop asks."""

    error: BaseException | None = None  # it raises none
    decision = 0  # it is over at once

    def __init__(self, spec: NativePolicySpec, context: Context, library: CLibrary) -> None:
        """Lay its tables out. `library` has been compiled with decisions.c. Raises MemoryError."""
        self._spec = spec
        self._names = list(context.models)
        self._most_layers = max(len(model.layers) for model in context.models.values())
        self._library = library
        self._arrays = KeptArrays(library)
        self._proposals: list[NDArray[Any]] = []
        self._handle = library.functions.policy_new(library.ffi.new("plan_t *", self._plan(context)))
        if not self._handle:
            raise MemoryError("no memory for the policy's tables")
        weakref.finalize(self, library.functions.policy_free, self._handle)
        self.decider = library.functions.policy_decider(self._handle)

    def form_block(self) -> None:
        """Form the block that the last decision lacked, after which it can be made again."""
        unformed = self._library.functions.policy_unformed(self._handle)
        index = (unformed.level, unformed.limit, unformed.scale, unformed.first)
        self._proposals[unformed.model][index] = self._form(unformed.model, unformed.first, unformed.scale)

    def form_all(self) -> None:
        """Form all blocks that a decision may lack, for a run that nobody can ask for one."""
        if self._spec.form is None:
            return
        for model, proposals in enumerate(self._proposals):
            _, _, scales, layers = proposals.shape
            for scale in range(scales):
                for first in range(layers):
                    proposals[:, :, scale, first] = self._form(model, first, scale)

    def _form(self, model: int, first: int, scale: int) -> Any:
        assert self._spec.form is not None
        proposal = self._spec.form(self._names[model], first, scale if self._follows_slack else UNSCALED)
        return np.array((len(proposal.block), proposal.cores), self._library.dtype("proposal_t"))

    @property
    def _follows_slack(self) -> bool:
        return self._spec.budgets is not None and self._spec.budgets.follows_slack

    def _plan(self, context: Context) -> dict[str, Any]:
        spec, pointer, numbers = self._spec, self._arrays.pointer, self._library.numbers
        tables, former, follows_slack = spec.tables, spec.former, self._follows_slack
        limits = len(tables.counts) if former else 1
        models = [self._model(name, limits) for name in self._names]
        loaded = former.loaded_averages if former else None
        null = self._library.ffi.NULL
        return {
            "models": self._arrays.structs("plan_model_t", models),
            "levels": pointer(tables.pressures),
            "scales": pointer(SCALES),
            "enough": pointer(former.enough_averages) if former else null,
            "loaded": null if loaded is None else pointer(loaded),
            "counts": pointer(tables.counts, np.int32),
            "level_count": len(tables.pressures),
            "count_count": len(tables.counts),
            "scale_count": len(SCALES) if follows_slack else 1,
            "limit_count": limits,
            "most_layers": self._most_layers,
            "alpha": spec.budgets.alpha if spec.budgets else spec.alpha,
            "tolerance": TOLERANCE,
            "slightly_more": 1 + TOLERANCE,
            "cores": context.machine.cores,
            "kind": numbers(DecisionKind, "decision_kind_t")[spec.kind],
            "order": numbers(Order, "order_t")[spec.options.order],
            "conflict": numbers(Conflict, "conflict_t")[spec.options.conflict],
            "drop_late": numbers(DropLate, "drop_late_t")[spec.options.drop_late],
            "follows_slack": follows_slack,
            "follows_load": former is not None,
            "counts_waiting": former is None or former.counts_waiting,
            "grows": spec.grows,
            "coalesce_layers": former.coalesce_layers if former else 1,
        }

    def _model(self, name: str, limits: int) -> dict[str, Any]:
        spec, pointer = self._spec, self._arrays.pointer
        tables, former, budgets = spec.tables, spec.former, spec.budgets
        remaining = tables.remaining_by_layer(name)
        levels, layers = len(remaining), remaining.shape[1] - 1
        shape = (levels, limits, len(SCALES) if self._follows_slack else 1, layers)
        dtype = self._library.dtype("proposal_t")
        proposals = np.zeros(shape if spec.kind is DecisionKind.BLOCKS else 0, dtype)
        self._proposals.append(proposals)
        model = {
            "remaining": pointer(remaining),
            "least": pointer(remaining.min(axis=2)),
            "versions": pointer(tables.versions_by_layer(name).transpose(0, 2, 1), np.uint8),
            "proposals": self._library.pointer(proposals),
            "layers": layers,
        }
        if budgets:
            model |= {"shares_s": pointer(budgets.of(name)), "budgets": pointer(budgets.left_s(name))}
        if former:
            model["averages"] = pointer([former.average_cores(name, level) for level in tables.levels()])
            model["seconds"] = pointer([tables.seconds(name, level) for level in tables.levels()])
        return model
