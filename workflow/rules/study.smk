# The study of one many-core machine: a job for each cell of its grids, so that a long run is taken up where it ended.
from functools import lru_cache

from veltair.evaluation.simulation.isolation_steps import dropping
from veltair.evaluation.simulation.sensitivity_cells import (
    cell_columns,
    cell_config,
    sensitivity_cells,
    study_grid,
)

STUDY = SETTINGS.study
try:
    VARIED = list(dict.fromkeys(sensitivity_cells(SETTINGS).values()))
except ConfigError as error:
    sys.exit(f"error: {error}")
STUDY_CELLS = {
    name: VARIED if name == "sensitivity" else paths for name, paths in LAYOUT.cells().items()
}
cell_of = lru_cache(lambda folder, index: cell_config(SETTINGS, folder, int(index)))
dropping_of = lru_cache(lambda policy: dropping(SETTINGS, policy))
# Of whom loads of the study are shares of.
STUDY_CAPACITIES = [
    LAYOUT.simulated(STUDY.machine, STUDY.workload, policy) / CAPACITY for policy in LAYOUT.references()
]


rule granularity:
    input:
        recorded=RECORDED_ONCE,
        costs=LAYOUT.costs(STUDY.machine),
        capacities=STUDY_CAPACITIES,
    output:
        R / "study" / "granularity" / "{policy}.csv",
    params:
        **STEP.of(
            "evaluation.simulation.study_steps:write_granularity",
            lambda cell: reads.study_keys(SETTINGS, [cell.policy], ("study", "granularity", "loads")),
            policies=lambda cell: [cell.policy],
        ),
    log:
        LOGS / "granularity" / "{policy}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.policy} at rates that all share"
    script:
        SCRIPT


rule conflicts:
    input:
        recorded=RECORDED_ONCE,
        costs=LAYOUT.costs(STUDY.machine),
        capacities=STUDY_CAPACITIES,
    output:
        R / "metrics" / "conflicts.csv",
    params:
        **STEP.of(
            "evaluation.simulation.study_steps:write_conflicts",
            lambda wildcards: reads.study_keys(SETTINGS, STUDY.conflicts.policies, ("study", "conflicts")),
            policies=lambda wildcards: STUDY.conflicts.policies,
        ),
    log:
        LOGS / "conflicts.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating conflicts over time"
    script:
        SCRIPT


rule layer_tables:
    input:
        costs=LAYOUT.costs(STUDY.machine),
    output:
        R / "metrics" / "core_need.csv",
        R / "metrics" / "slowdown.csv",
    params:
        **STEP.of(
            "evaluation.simulation.study_steps:write_layer_tables",
            lambda wildcards: reads.layer_keys(SETTINGS),
        ),
        folder=subpath(output[0], parent=True),
    log:
        LOGS / "layer_tables.log",
    conda:
        ENVIRONMENT
    message:
        "Computing core needs of layers and slowdowns of versions"
    script:
        SCRIPT


rule sensitivity:
    input:
        recorded=RECORDED_ONCE,
        # A described machine is derived anew where an assumption is about it.
        costs=[LAYOUT.costs(machine) for machine in (STUDY.machine, HOST)],
    output:
        R / "study" / "sensitivity" / "{variation}" / "{index}.csv",
    params:
        **STEP.under(
            "evaluation.simulation.study_steps:write_sensitivity",
            lambda cell: reads.under_study(*cell_of(cell.variation, cell.index)),
            policies=lambda cell: cell_of(cell.variation, cell.index)[1],
        ),
        policies=lambda cell: list(cell_of(cell.variation, cell.index)[1]),
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
        SCRIPT


rule scale:
    input:
        recorded=RECORDED_ONCE,
        costs=lambda wildcards: LAYOUT.costs(wildcards.machine),
    output:
        R / "study" / "scale" / "{machine}.csv",
    params:
        **STEP.under(
            "evaluation.simulation.study_steps:write_scale",
            lambda wildcards: reads.under_study(study_grid(SETTINGS), STUDY.policies),
            policies=lambda wildcards: STUDY.policies,
        ),
        policies=list(STUDY.policies),
    log:
        LOGS / "scale" / "{machine}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.machine}, of the scale"
    script:
        SCRIPT


rule noisy_neighbour:
    input:
        recorded=RECORDED_ONCE,
        costs=LAYOUT.costs(STUDY.machine),
        capacities=[
            LAYOUT.simulated(STUDY.machine, STUDY.neighbours, policy) / CAPACITY for policy in LAYOUT.references()
        ],
    output:
        R / "study" / "noisy_neighbour" / "{policy}.csv",
    params:
        **STEP.of(
            "evaluation.simulation.isolation_steps:write_noisy_neighbour",
            lambda cell: reads.neighbour_keys(SETTINGS, cell.policy),
            policies=lambda cell: [cell.policy],
        ),
    log:
        LOGS / "noisy_neighbour" / "{policy}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.policy} while one tenant sends more than its share"
    script:
        SCRIPT


rule equal_drops:
    input:
        recorded=RECORDED_ONCE,
        costs=LAYOUT.costs(STUDY.machine),
    output:
        R / "study" / "equal_drops" / "{workload}" / "{policy}.csv",
    params:
        **STEP.under(
            "evaluation.simulation.isolation_steps:write_equal_drops",
            lambda cell: (
                dropping_of(cell.policy),
                reads.equal_drop_keys(SETTINGS, cell.workload, cell.policy),
            ),
            policies=lambda cell: [cell.policy],
        ),
    log:
        LOGS / "equal_drops" / "{workload}-{policy}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.policy}, {wildcards.workload}, with the one rule for late queries"
    script:
        SCRIPT


rule study_tables:
    input:
        **STUDY_CELLS,
    output:
        [R / "metrics" / f"{name}.csv" for name in STUDY_CELLS],
    params:
        **STEP.of("evaluation.simulation.study_steps:gather"),
        cells={name: [str(path) for path in paths] for name, paths in STUDY_CELLS.items()},
        assumptions=cell_columns(SETTINGS),
        folder=LAYOUT.metrics,
    log:
        LOGS / "study_tables.log",
    conda:
        ENVIRONMENT
    message:
        "Gathering the cells of the study"
    script:
        SCRIPT


rule paper_figures:
    input:
        rules.metrics.output,
        LAYOUT.study_tables(),
    output:
        LAYOUT.paper_figure_files(),
    params:
        **STEP.of("evaluation.reports.paper_figures:draw_paper_figures"),
        names=LAYOUT.paper_figures(),
        order=LAYOUT.policy_order(),
        folder=LAYOUT.metrics,
        **FIGURES,
    log:
        LOGS / "paper_figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures of the study"
    script:
        SCRIPT
