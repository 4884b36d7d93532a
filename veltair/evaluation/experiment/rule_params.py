"""What a rule of the workflow passes to its step, and by what it is known whether results are old."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from veltair.config import Config
from veltair.config.part import Key, part_of
from veltair.evaluation.experiment.code_digest import CodeGraph
from veltair.provenance import fingerprint
from veltair.serving.policies.presets import policy_source

PACKAGE = "veltair"
Wildcards = Any


@dataclass(frozen=True, slots=True)
class RuleParams:
    """Makes the parameters of rules from the configuration, and from the code that lies in a folder.

    `folder` is where the workflow runs: a user's policies and models may be files there.
    """

    config: Config
    folder: Path
    _graph: CodeGraph = field(init=False)
    _values: dict[str, Any] = field(init=False)
    _digests: dict[tuple[str, ...], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_graph", CodeGraph(own=self.folder))
        object.__setattr__(self, "_values", self.config.model_dump(mode="json"))

    def of(
        self,
        step: str,
        reads: Callable[[Wildcards], Iterable[Key]] = lambda _: (),
        policies: Callable[[Wildcards], Iterable[str]] = lambda _: (),
        starts: Callable[[Wildcards], Iterable[str]] = lambda _: (),
    ) -> dict[str, Any]:
        """Return the parameters `step`, `config` and `code`; Snakemake repeats a step if one of them changes.

        `step` is `module:function` below veltair; `reads` are the keys of the configuration that it reads,
        `policies` those that it runs, and `starts` other code that only the configuration names.
        """
        return self.under(step, lambda wildcards: (self.config, reads(wildcards)), policies, starts)

    def under(
        self,
        step: str,
        reads: Callable[[Wildcards], tuple[Config, Iterable[Key]]],
        policies: Callable[[Wildcards], Iterable[str]] = lambda _: (),
        starts: Callable[[Wildcards], Iterable[str]] = lambda _: (),
    ) -> dict[str, Any]:
        """Return the same for a step under another configuration, which `reads` returns beside the keys."""
        path = f"{PACKAGE}.{step}"

        def config(wildcards: Wildcards) -> dict[str, Any]:
            own, keys = reads(wildcards)
            return part_of(self._values if own is self.config else own.model_dump(mode="json"), keys)

        def code(wildcards: Wildcards) -> dict[str, Any]:
            named = {start: self._digest(start) for start in starts(wildcards)}
            named |= {name: self.policy_code(name) for name in policies(wildcards)}
            return {"step": self._digest(path), "named": named}

        return {"step": path, "config": config, "code": code}

    def policy_code(self, name: str) -> str:
        """Return a digest of the code of one policy of the configuration, its base classes included."""
        path = self.config.policies[name].path
        try:
            return self._digest(path)
        except LookupError:  # of an installed package, which is not followed
            return fingerprint(policy_source(path))

    def _digest(self, *starts: str) -> str:
        if starts not in self._digests:
            self._digests[starts] = self._graph.digest(starts)
        return self._digests[starts]
