"""Where each result lies: the one place that knows the folders of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd

from veltair.compiler.select.shipped import INSTRUCTION_SETS, SHIPPED, cpu_flags, shipped_stores
from veltair.compiler.select.store import FILES
from veltair.config import Config, ConfigError
from veltair.config.vary import is_baseline
from veltair.data import shipped
from veltair.evaluation.metrics.capacity_table import EQUAL_LOAD, LATENCY_LOADS, REFERENCE
from veltair.machine.costs.folder import COSTS, LAYERS
from veltair.serving.policies.presets import shared_options

# In the folder of a policy that is simulated on a machine, or of a workload that is measured.
CAPACITY, RECORDS, SLOTS = "capacity.csv", "records.parquet", "slots.csv"
# Metric tables of simulated runs, and of measured ones.
SIMULATED_TABLES = ("capacity", "capacity_seeds")
MEASURED_TABLES = ("curves", "measured_capacity", "measured_ratios", "slots")
SHIPPED_COSTS = shipped("costs")
# The metric tables of the study's full grid, from which its figures can be drawn anew in seconds.
SHIPPED_STUDY = shipped("study")
HOST = "host"
# The table of the comparison with one rule for late queries.
EQUAL_DROPS = "equal_drops"
# The cell of the run as it is; no assumption can have this name.
BASELINE = "_usual"
# Figures by the tables that they are drawn from; some need runs at these loads.
LATENCY, MEASURED_CURVES = "latency", "measured"
COMPARED = ("paper_qps", "paper_ratio", "paper_latency", "paper_efficiency", "paper_fluid")
AT_LOADS = {"paper_latency": LATENCY_LOADS, "paper_efficiency": (EQUAL_LOAD,)}
STUDIED = (
    *("paper_granularity", "paper_core_need", "paper_conflicts", "paper_slowdown"),
    *("paper_sensitivity", "paper_scale", "paper_noisy_neighbour", "paper_equal_drops"),
)
# Of how far simulator and models are off what was measured.
FIDELITY = ("paper_fidelity", "paper_cost_fit", "paper_corun_fit")
TRAFFIC = "validation_traffic"


def check_shipped(config: Config) -> None:
    """Raise ConfigError if shipped tables are asked for that lack a model which is simulated."""
    if config.profile.costs != "shipped":
        return
    served = {name for workload in config.simulated.workloads for name in config.models_of(workload)}
    layers = pd.read_parquet(SHIPPED_COSTS / LAYERS, columns=["model"])
    if lacking := sorted(served - set(layers["model"])):
        there = ", ".join(dict.fromkeys(layers["model"]))
        raise ConfigError(
            f"profile.costs: the shipped cost tables lack {', '.join(lacking)} (they have {there}); "
            "set `profile.costs: measured` to profile them here, or leave out of `simulated.workloads` what "
            "serves them"
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of a run with a configuration, relative to the folder that it runs in."""

    config: Config

    @property
    def results(self) -> Path:
        """The folder of all results."""
        return Path(self.config.results.folder)

    @property
    def search(self) -> Path:
        """The folder of the candidates that this run searches."""
        return self.results / "search"

    @property
    def searches(self) -> bool:
        """Whether this run searches: everything, or what is not shipped."""
        return not self.config.search.reuse or self.config.search.missing != "error"

    def shipped_candidates(self) -> list[Path]:
        """Return the files of the shipped stores that are used, of all instruction sets."""
        if not self.config.search.reuse:
            return []
        paths = [SHIPPED / name / file for name, file in product(INSTRUCTION_SETS, FILES)]
        return [path for path in paths if path.is_file()]

    def candidates(self) -> list[Path]:
        """Return the files of all stores that versions are chosen from."""
        return self.shipped_candidates() + [self.search / file for file in FILES if self.searches]

    def stores(self) -> list[Path]:
        """Return the folders that versions are chosen from: those that `build.cpu` can run, and our own.

        Raises StoreError where this CPU cannot run what is built for that one.
        """
        flags = cpu_flags(self.config.build.cpu)
        shipped = shipped_stores(flags=flags) if self.config.search.reuse else []
        return shipped + ([self.search] if self.searches else [])

    def traces(self) -> list[Path]:
        """Return the files of recorded arrivals."""
        tenants = chain(*(mix.values() for mix in self.config.tenants.values()))
        return [Path(tenant.trace) for tenant in tenants if tenant.trace is not None]

    def builds(self) -> dict[str, Path]:
        """Return the folder of each model that is built here."""
        return {model: self.results / "build" / model for model in self.config.models}

    def batch_builds(self) -> dict[str, Path]:
        """Return the folder of each network that is built here for several queries at once."""
        networks = self.config.networks()
        return {name: self.results / "build" / name for name in networks if name not in self.config.models}

    def load_policies(self, policy: str) -> list[str]:
        """Return the policies whose capacities say at which rates one is run, its own among them."""
        return list(dict.fromkeys([policy, *self.references()]))

    def references(self) -> list[str]:
        """Return the policies whose capacities loads are shares of: the reference, or all without it."""
        return [REFERENCE] if REFERENCE in self.compared else self.compared

    def tables(self, machine: str) -> Path:
        """Return the folder of a machine's cost tables; `host` is this machine, or the shipped one."""
        if machine == HOST and self.config.profile.costs == "shipped":
            return SHIPPED_COSTS
        return self.results / "costs" / machine

    def costs(self, machine: str) -> Path:
        """Return the file that completes a machine's tables."""
        return self.tables(machine) / COSTS

    @property
    def native(self) -> Path:
        """The folder of what was compiled here of our own C sources."""
        return self.results / "native"

    @property
    def interference(self) -> Path:
        """The fits of the sources of interference on this machine, made by a rule that no run asks for."""
        return self.results / "machine" / "interference.json"

    def simulated(self, machine: str, workload: str, policy: str) -> Path:
        """Return the folder of a policy's simulated results."""
        return self.results / "simulated" / machine / workload / policy

    def measured(self, workload: str) -> Path:
        """Return the folder of a workload's measured results, of all policies."""
        return self.results / "measured" / workload

    @property
    def compared(self) -> list[str]:
        """The policies that are compared; others serve the study only."""
        return list(self.config.policies if self.config.compared is None else self.config.compared)

    def measured_folders(self) -> list[Path]:
        """Return the folders of all measured results; none where nothing is measured."""
        measured = self.config.measured
        return [self.measured(workload) for workload in measured.workloads] if measured.enabled else []

    def simulated_folders(self) -> list[Path]:
        """Return the folders of all simulated results, by policy; none where nothing is simulated."""
        simulated = self.config.simulated
        keys = product(simulated.machines, simulated.workloads, self.compared)
        return [self.simulated(*key) for key in keys] if simulated.enabled else []

    def machines(self) -> list[str]:
        """Return the machines that results are about; the measured one is `host`."""
        machines = [HOST] if self.config.measured.enabled else []
        if self.config.simulated.enabled:
            machines += [name for name in self.config.simulated.machines if name not in machines]
        return machines

    def policy_order(self) -> dict[str, Any]:
        """Return the fields of `PolicyOrder`: rows as the configuration lists its policies, styles, options.

        Families stand together, before the policies that have none.
        """
        figures = self.config.figures
        families = [list(members) for members in figures.families.values()]
        names = list(dict.fromkeys([*chain(*families), *self.config.policies]))
        order = {"rows": names, "styles": list(dict.fromkeys([*figures.styles, *names]))}
        return {**order, "families": families, "options": self._options()}

    def _options(self) -> dict[str, dict[str, str]]:
        """Return what figures state of each policy's options."""
        config = self.config
        return {
            name: shared_options(policy.path, policy.preset or config.preset, policy.options)
            for name, policy in config.policies.items()
        }

    def compared_figures(self) -> list[str]:
        """Return the names of the figures that compare policies, those of measured runs first.

        Left out are those of runs that there are not, and those at loads that no run has.
        """
        measured = [MEASURED_CURVES] if self.config.measured.enabled else []
        if not self.config.simulated.enabled:
            return [*measured, LATENCY]
        loads = set(self.config.simulated.loads)
        compared = [name for name in COMPARED if name not in AT_LOADS or loads & set(AT_LOADS[name])]
        return [*measured, LATENCY, *compared]

    def figures(self) -> list[Path]:
        """Return the files of these figures."""
        return self._figure_files(self.compared_figures())

    @property
    def describes(self) -> list[str]:
        """The described machines that are simulated."""
        config = self.config.simulated
        return [name for name in config.machines if name != HOST] if config.enabled else []

    def timelines(self) -> list[Path]:
        """Return the folders of the timelines of measured runs; none where none are recorded."""
        measured = self.config.measured
        if not (measured.enabled and measured.timeline):
            return []
        folder = Path(self.config.figures.folder) / "timelines"
        return [folder / workload for workload in measured.workloads]

    def version_figures(self) -> list[Path]:
        """Return the files of the figures about versions; none where nothing is built here."""
        if self.config.profile.costs == "shipped":
            return []
        return self._figure_files(("versions_saturation", "versions_scatter", "versions_sets"))

    def metric_tables(self) -> list[Path]:
        """Return the metric tables of this run, without those of the study."""
        names = ["targets", "rates", "tenant_rates"]
        names += SIMULATED_TABLES if self.config.simulated.enabled else []
        names += MEASURED_TABLES if self.config.measured.enabled else []
        return [self.metrics / f"{name}.csv" for name in names]

    @property
    def metrics(self) -> Path:
        """The folder of all metric tables."""
        return self.results / "metrics"

    def granularity(self) -> list[Path]:
        """Return the cells of the granularity study: a policy each."""
        names = self.config.study.granularity.policies
        return [self.results / "study" / "granularity" / f"{name}.csv" for name in names]

    def sensitivity(self) -> dict[tuple[str, int], Path]:
        """Return the cell of each assumption and value of it; values that the run has anyway share one."""
        folder = self.results / "study" / "sensitivity"
        return {
            (name, index): folder / BASELINE / "0.csv"
            if is_baseline(self.config, name, index)
            else folder / name / f"{index}.csv"
            for name, variation in self.config.sensitivity.items()
            for index in range(len(variation.values))
        }

    def scale(self) -> list[Path]:
        """Return the cells of the scale: a machine each."""
        return [self.results / "study" / "scale" / f"{machine}.csv" for machine in self.config.study.scale]

    def noisy_neighbour(self) -> list[Path]:
        """Return the cells of the noisy neighbour: a policy each."""
        names = self.config.study.noisy_neighbour.policies
        return [self.results / "study" / "noisy_neighbour" / f"{name}.csv" for name in names]

    def equal_drops(self) -> list[Path]:
        """Return the cells of the comparison with one rule for late queries: a workload and policy each."""
        folder, config = self.results / "study" / "equal_drops", self.config
        keys = product(config.simulated.workloads, config.study.equal_drops.policies)
        return [folder / workload / f"{policy}.csv" for workload, policy in keys]

    def cells(self) -> dict[str, list[Path]]:
        """Return the cells that each table of the study is gathered from; a table without any is left out."""
        if not self.config.study.enabled:
            return {}
        varied = list(dict.fromkeys(self.sensitivity().values()))
        cells = {
            "granularity": self.granularity(),
            "sensitivity": varied,
            "scale": self.scale(),
            "noisy_neighbour": self.noisy_neighbour(),
            EQUAL_DROPS: self.equal_drops(),
        }
        return {name: paths for name, paths in cells.items() if paths}

    def study_tables(self) -> list[Path]:
        """Return the study's tables; none where there is no study."""
        if not self.config.study.enabled:
            return []
        alone = ["conflicts"] if self.config.study.conflicts.policies else []
        return [self.metrics / f"{name}.csv" for name in ("core_need", "slowdown", *alone, *self.cells())]

    def paper_figures(self) -> list[str]:
        """Return the names of the study's figures that the tables of this run suffice for."""
        made = {f"paper_{path.stem}" for path in self.study_tables()}
        return [name for name in STUDIED if name in made]

    def equal_drops_table(self) -> list[Path]:
        """Return the table of the comparison with one rule for late queries, if it is made."""
        return [path for path in self.study_tables() if path.stem == EQUAL_DROPS]

    def redrawn(self) -> list[str]:
        """Return the names of the figures of the paper that are drawn from the shipped tables.

        Left out are those of a study's parts that came after the last full run.
        """
        shipped_tables = {f"paper_{path.stem}" for path in SHIPPED_STUDY.glob("*.csv")}
        return [*COMPARED, *(name for name in self.paper_figures() if name in shipped_tables)]

    def paper_figure_files(self) -> list[Path]:
        """Return the files of these figures."""
        return self._figure_files(self.paper_figures())

    def claims(self) -> list[Path]:
        """Return the files that judge the paper's claims; none where there is no study."""
        return (
            [self.results / name for name in ("claims.md", "claims.json")]
            if self.config.study.enabled
            else []
        )

    def validation_figures(self) -> list[Path]:
        """Return the files of the figures that compare what was measured with what was simulated."""
        return self._figure_files(FIDELITY)

    def traffic_figure(self) -> list[Path]:
        """Return the files of the figure that compares modelled traffic with cachegrind's."""
        return self._figure_files([TRAFFIC])

    def _figure_files(self, names: Sequence[str]) -> list[Path]:
        folder = Path(self.config.figures.folder)
        return [folder / f"{name}.{form}" for name, form in product(names, self.config.figures.formats)]
