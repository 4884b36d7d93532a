# The configuration, checked before any work; and where each result lies.
from veltair.config import ConfigError, check_environment, load
from veltair.evaluation.experiment.layout import FIDELITY, HOST, SHIPPED_STUDY, Layout, check_shipped
from veltair.provenance import fingerprint
from veltair.serving.policies.presets import check_policy, policy_source

# Its values are text to Snakemake and come without a file that a result could be traced to.
if workflow.config_settings.config:
    sys.exit("error: --config is not taken; write its keys into a file and give that last: --configfile A.yaml B.yaml")

try:
    SETTINGS = load([Path(path) for path in workflow.configfiles])
    check_environment(SETTINGS, check_policy)
    check_shipped(SETTINGS)
except ConfigError as error:
    sys.exit(f"error: {error}")

LAYOUT = Layout(SETTINGS)
# As a parameter of a rule: a change of these keys makes it run again.
VALUES = SETTINGS.model_dump(mode="json")
# So that an edited policy runs again.
POLICY_CODE = {name: fingerprint(policy_source(policy.path)) for name, policy in SETTINGS.policies.items()}
# So are fits of the sources of interference, which no run asks for but runs use once they are there.
FITS = fingerprint(LAYOUT.interference.read_text()) if LAYOUT.interference.exists() else "none"
ENVIRONMENT = "../../environment.yml"
LOGS = LAYOUT.results / "logs"
CAPACITY, RECORDS = "capacity.csv", "records.parquet"

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
