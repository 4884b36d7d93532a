# The study of one many-core machine: a job for each cell of its grids, so that a long run is taken up where it ended.
from veltair.evaluation.simulation.sensitivity_cells import sensitivity_cells

STUDY = SETTINGS.study
try:
    VARIED = list(dict.fromkeys(sensitivity_cells(SETTINGS).values()))
except ConfigError as error:
    sys.exit(f"error: {error}")
STUDY_CELLS = {
    name: VARIED if name == "sensitivity" else paths for name, paths in LAYOUT.cells().items()
}
STUDY_CAPACITIES = expand(
    LAYOUT.simulated(STUDY.machine, STUDY.workload, "{other}") / CAPACITY, other=LAYOUT.compared
)


rule granularity:
    input:
        costs=LAYOUT.costs(STUDY.machine),
        capacities=STUDY_CAPACITIES,
    output:
        R / "study" / "granularity" / "{policy}.csv",
    params:
        settings=VALUES,
        code=lambda wildcards: POLICY_CODE[wildcards.policy],
    log:
        LOGS / "granularity" / "{policy}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.policy} at rates that all share"
    script:
        "../scripts/granularity.py"


rule conflicts:
    input:
        costs=LAYOUT.costs(STUDY.machine),
        capacities=STUDY_CAPACITIES,
    output:
        R / "metrics" / "conflicts.csv",
    params:
        settings=VALUES,
        code=[POLICY_CODE[name] for name in STUDY.conflicts.policies],
    log:
        LOGS / "conflicts.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating conflicts over time"
    script:
        "../scripts/conflicts.py"


rule layer_tables:
    input:
        costs=LAYOUT.costs(STUDY.machine),
    output:
        R / "metrics" / "core_need.csv",
        R / "metrics" / "slowdown.csv",
    params:
        settings=VALUES,
    log:
        LOGS / "layer_tables.log",
    conda:
        ENVIRONMENT
    message:
        "Computing core needs of layers and slowdowns of versions"
    script:
        "../scripts/layer_tables.py"


rule sensitivity:
    input:
        # A described machine is derived anew where an assumption is about it.
        costs=[LAYOUT.costs(machine) for machine in (STUDY.machine, HOST)],
    output:
        R / "study" / "sensitivity" / "{variation}" / "{index}.csv",
    params:
        settings=VALUES,
        code=list(POLICY_CODE.values()),
    wildcard_constraints:
        # An assumption, and another workload than the study's.
        variation="[A-Za-z0-9._-]+(@[A-Za-z0-9._-]+)?",
    log:
        LOGS / "sensitivity" / "{variation}-{index}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating under another assumption: {wildcards.variation}, value {wildcards.index}"
    script:
        "../scripts/sensitivity.py"


rule scale:
    input:
        costs=lambda wildcards: LAYOUT.costs(wildcards.machine),
    output:
        R / "study" / "scale" / "{machine}.csv",
    params:
        settings=VALUES,
        code=list(POLICY_CODE.values()),
    log:
        LOGS / "scale" / "{machine}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.machine}, of the scale"
    script:
        "../scripts/scale.py"


rule study_tables:
    input:
        **STUDY_CELLS,
    output:
        [R / "metrics" / f"{name}.csv" for name in STUDY_CELLS],
    params:
        settings=VALUES,
    log:
        LOGS / "study_tables.log",
    conda:
        ENVIRONMENT
    message:
        "Gathering the cells of the study"
    script:
        "../scripts/study_tables.py"


rule paper_figures:
    input:
        rules.metrics.output,
        LAYOUT.study_tables(),
    output:
        LAYOUT.paper_figure_files(),
    params:
        folder=LAYOUT.metrics,
        names=LAYOUT.paper_figures(),
        order=LAYOUT.policy_order(),
        figures=VALUES["figures"],
    log:
        LOGS / "paper_figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures of the study"
    script:
        "../scripts/paper_figures.py"
