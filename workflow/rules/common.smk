# The configuration, checked before any work; where each result lies; and what rules pass to their steps.
from veltair.terminal import imported_packages

with imported_packages():
    import pandas  # noqa: F401

from veltair.compiler.select.store import StoreError
from veltair.config import ConfigError, check_environment, load
from veltair.config.yaml_file import read_yaml
from veltair.data import shipped
from veltair.evaluation.experiment import reads
from veltair.evaluation.experiment.layout import (
    CAPACITY,
    FIDELITY,
    HOST,
    RECORDS,
    SHIPPED_STUDY,
    SLOTS,
    Layout,
    check_shipped,
)
from veltair.evaluation.experiment.partitions import check_partitions
from veltair.evaluation.experiment.rule_params import RuleParams
from veltair.machine.costs.block_costs import RECORDED
from veltair.machine.costs.oversubscription import RECORDED as SHARED
from veltair.machine.topology.described import description_files
from veltair.provenance import fingerprint
from veltair.serving.policies.presets import check_policy, simulated_only

# Its values are text to Snakemake and come without a file that a result could be traced to.
if workflow.config_settings.config:
    sys.exit("error: --config is not taken; write its keys into a file and give that last: --configfile A.yaml B.yaml")

try:
    SETTINGS = load([Path(path) for path in workflow.configfiles])
    check_environment(SETTINGS, check_policy, simulated_only)
    check_shipped(SETTINGS)
    check_partitions(SETTINGS)
except ConfigError as error:
    sys.exit(f"error: {error}")

LAYOUT = Layout(SETTINGS)
# The parameters of each rule: its step, the keys of the configuration that this reads, and a digest of the code
# that it runs through. A change of one of them makes the rule run again, and of nothing else.
STEP = RuleParams(SETTINGS, Path.cwd())
# Fits of the sources of interference, which no run asks for but runs use once they are there.
FITS = fingerprint(LAYOUT.interference.read_text()) if LAYOUT.interference.exists() else "none"
FIGURES = {"figures": Path(SETTINGS.figures.folder), "formats": list(SETTINGS.figures.formats)}
# What the label UNVALIDATED follows, what blocks cost on machines on which nobody measured it, what sharing cores does,
# and recorded arrivals: every simulated result is made anew once one of these files is added or changes.
RECORDED_ONCE = [
    *sorted(map(str, shipped("validation").glob("*.json"))),
    *(str(RECORDED), str(SHARED)),
    *map(str, LAYOUT.traces()),
]
# What is built of which model, and for how many queries at once; those for one alone are served.
NETWORKS = SETTINGS.networks()
BATCH_BUILDS = {network: str(folder) for network, folder in LAYOUT.batch_builds().items()}
BUILDS = {model: str(folder) for model, folder in LAYOUT.builds().items()}
try:
    STORES = [str(folder) for folder in LAYOUT.stores()]
except StoreError as error:
    sys.exit(f"error: {error}")
ENVIRONMENT = "../../environment.yml"
SCRIPT = "../scripts/step.py"
LOGS = LAYOUT.results / "logs"

# Measurements have the machine to themselves: this resource, all threads, and a lock against a second run.
workflow.register_resource("cpu_lock", 1)
ALL_THREADS = 4096


wildcard_constraints:
    model="[A-Za-z0-9._-]+",
    machine="[A-Za-z0-9._-]+",
    workload="[A-Za-z0-9._-]+",
    policy="[A-Za-z0-9._-]+",
    variation="[A-Za-z0-9._-]+",
    index="[0-9]+",
    file="[A-Za-z0-9_]+",


def source_of(wildcards):
    """Return the configuration of the model that a network is of."""
    return SETTINGS.models[NETWORKS[wildcards.model][0]]
