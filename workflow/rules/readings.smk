# What a paper leaves open, in every combination: a job for each workload and set of options that both policies have.
from veltair.evaluation.simulation.readings import check_readings, equal_options

try:
    check_readings(SETTINGS)
except ConfigError as error:
    sys.exit(f"error: {error}")
READ = SETTINGS.readings
READ_BY = [READ.policy, READ.against]
READINGS_TABLE = R / "readings.csv"


rule reading_cell:
    input:
        recorded=RECORDED_ONCE,
        costs=lambda wildcards: LAYOUT.costs(wildcards.machine),
    output:
        R / "study" / "readings" / "{machine}" / "{workload}" / "{index}.csv",
    params:
        **STEP.of(
            "evaluation.simulation.readings:write_readings",
            lambda cell: [
                *reads.simulation_keys(SETTINGS, cell.machine, [cell.workload], READ_BY),
                *(reads.SEARCH, ("readings",), ("preset",)),
            ],
            policies=lambda cell: READ_BY,
        ),
        tables=subpath(input.costs, parent=True),
        index=lambda cell: int(cell.index),
    log:
        LOGS / "reading_cell" / "{machine}-{workload}-{index}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating readings of the paper, {wildcards.workload}, options that both have {wildcards.index}"
    script:
        SCRIPT


rule readings:
    input:
        cells=[
            R / "study" / "readings" / machine / workload / f"{index}.csv"
            for machine, workload, index in product(
                SETTINGS.simulated.machines, SETTINGS.simulated.workloads, range(len(equal_options(SETTINGS)))
            )
        ],
    output:
        table=READINGS_TABLE,
    params:
        **STEP.of("evaluation.simulation.readings:gather_readings"),
    log:
        LOGS / "readings.log",
    conda:
        ENVIRONMENT
    message:
        "Gathering the readings"
    script:
        SCRIPT


rule readings_figure:
    input:
        table=READINGS_TABLE,
    output:
        expand(FIGURES["figures"] / "readings.{form}", form=SETTINGS.figures.formats),
    params:
        **STEP.of("evaluation.reports.readings_page:draw_readings"),
        folder=FIGURES["figures"],
        formats=FIGURES["formats"],
    log:
        LOGS / "readings_figure.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the readings"
    script:
        SCRIPT


# Of the recorded file, not of this run's: it writes into docs/, always, in a second.
rule readings_page:
    params:
        **STEP.of("evaluation.reports.readings_page:write_readings_page"),
        table="docs/results/readings.csv",
        page="docs/readings.md",
        figure="docs/images/readings.png",
    log:
        LOGS / "readings_page.log",
    conda:
        ENVIRONMENT
    message:
        "Writing docs/readings.md from the recorded results"
    script:
        SCRIPT
