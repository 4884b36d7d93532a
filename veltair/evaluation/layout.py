"""Where each result lies: the one place that knows the folders of a run."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from veltair.compiler.shipped import INSTRUCTION_SETS, SHIPPED
from veltair.compiler.store import FILES
from veltair.config import Config
from veltair.machine.tables import COSTS

SHIPPED_COSTS = Path(__file__).parents[1] / "data" / "costs"
HOST = "host"


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
        return not self.config.search.reuse or self.config.search.missing == "search"

    def shipped_candidates(self) -> list[Path]:
        """Return the files of the shipped stores that are used, of all instruction sets."""
        if not self.config.search.reuse:
            return []
        paths = [SHIPPED / name / file for name, file in product(INSTRUCTION_SETS, FILES)]
        return [path for path in paths if path.is_file()]

    def candidates(self) -> list[Path]:
        """Return the files of all stores that versions are chosen from."""
        return self.shipped_candidates() + [self.search / file for file in FILES if self.searches]

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

    def measured(self, workload: str, policy: str) -> Path:
        """Return the folder of a policy's measured results."""
        return self.results / "measured" / workload / policy

    def run_folders(self) -> list[Path]:
        """Return the folders of all results, simulated and measured, by policy."""
        config, folders = self.config, []
        if config.measured.enabled:
            folders += [self.measured(*key) for key in product(config.measured.workloads, config.policies)]
        if config.simulated.enabled:
            keys = product(config.simulated.machines, config.simulated.workloads, config.policies)
            folders += [self.simulated(*key) for key in keys]
        return folders

    def machines(self) -> list[str]:
        """Return the machines that results are about; the measured one is `host`."""
        machines = [HOST] if self.config.measured.enabled else []
        if self.config.simulated.enabled:
            machines += [name for name in self.config.simulated.machines if name not in machines]
        return machines

    def figures(self) -> list[Path]:
        """Return the files of all figures."""
        folder = Path(self.config.figures.folder)
        names = ("qps", "latency", "efficiency")
        return [folder / f"{name}.{form}" for name, form in product(names, self.config.figures.formats)]

    @property
    def describes(self) -> list[str]:
        """The described machines that are simulated."""
        config = self.config.simulated
        return [name for name in config.machines if name != HOST] if config.enabled else []

    def version_figures(self) -> list[Path]:
        """Return the files of the figures about versions; none where nothing is built here."""
        if self.config.profile.costs == "shipped":
            return []
        folder = Path(self.config.figures.folder)
        names = ["versions_saturation", "versions_scatter", "versions_sets"]
        return [folder / f"{name}.{form}" for name, form in product(names, self.config.figures.formats)]
