# How far simulator and models are off on this machine: results/validation.md, results/benchmarks/validation.json.

VALIDATION = R / "validation"
VALIDATED = ["fidelity", "corun_fit", "cost_fit"]
VALIDATION_TABLES = expand(VALIDATION / "{table}.csv", table=VALIDATED)
TRACES = expand(
    VALIDATION / "traces" / "{workload}" / "{policy}" / RECORDS,
    workload=SETTINGS.measured.workloads,
    policy=LAYOUT.compared,
)
VALIDATE = STEP.of(
    "evaluation.validation.steps:validate",
    lambda wildcards: reads.validation_keys(SETTINGS),
    policies=lambda wildcards: SETTINGS.policies,
)


# On 2 cores with ResNet-50 and MobileNet-V2: 21 pairs, 8 rounds, about 2 minutes.
rule co_runs:
    input:
        costs=LAYOUT.costs(HOST),
        plans=PLANS,
        libraries=LIBRARIES,
    output:
        VALIDATION / "co_runs.parquet",
    params:
        **STEP.of(
            "evaluation.validation.recorded_runs:measure_co_runs",
            lambda wildcards: [("results",), ("engine",), ("measured", "seed")],
        ),
        tables=subpath(input.costs, parent=True),
        builds=BUILDS,
    log:
        LOGS / "co_runs.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Timing pairs of models beside each other (progress: {log})"
    script:
        SCRIPT


# Of ResNet-50 and MobileNet-V2: 32 versions, about 80 s on one core. Nothing is timed.
rule layer_traffic:
    input:
        models=MODELS,
    output:
        VALIDATION / "traffic.csv",
    params:
        **STEP.of(
            "evaluation.validation.traffic_steps:write_traffic",
            lambda wildcards: [("select",), ("search", "trials")],
        ),
        models={model: str(R / "models" / f"{model}.onnx") for model in SETTINGS.models},
        native=str(LAYOUT.native),
        cache=str(R / "cache"),
    log:
        LOGS / "layer_traffic.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating caches under a sample of layers (progress: {log})"
    script:
        SCRIPT


# On one core: light models a minute each, medium ones 3 to 7, the heavy two, cut to two blocks, 15. Nothing is timed.
rule network_traffic:
    input:
        model=R / "models" / "{model}.onnx",
    output:
        VALIDATION / "network_traffic" / "{model}.csv",
    params:
        **STEP.of("evaluation.validation.traffic_steps:write_network_traffic"),
        native=str(LAYOUT.native),
        cache=str(R / "cache"),
    log:
        LOGS / "network_traffic" / "{model}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating caches under {wildcards.model}, layer after layer (progress: {log})"
    script:
        SCRIPT


rule traffic:
    input:
        tables=expand(rules.network_traffic.output[0], model=SETTINGS.models),
        layers=rules.layer_traffic.output[0],
    output:
        figures=R / "benchmarks" / "traffic.json",
        report=R / "traffic.md",
    params:
        **STEP.of("evaluation.validation.traffic_steps:compare_network_traffic"),
        command="snakemake --cores all traffic",
    log:
        LOGS / "traffic.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing the traffic of whole networks with what was simulated"
    script:
        SCRIPT


rule traffic_figure:
    input:
        table=rules.layer_traffic.output[0],
    output:
        LAYOUT.traffic_figure(),
    params:
        **STEP.of("evaluation.validation.traffic_steps:draw_traffic"),
        figure=FIGURES["figures"] / "validation_traffic",
        formats=FIGURES["formats"],
    log:
        LOGS / "traffic_figure.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing modelled against simulated traffic"
    script:
        SCRIPT


# On 2 cores with ResNet-50 and MobileNet-V2: two loads of 220 queries, about 1 minute a policy, 2 at most.
rule validation_trace:
    input:
        costs=LAYOUT.costs(HOST),
        plans=PLANS,
        libraries=LIBRARIES,
    output:
        records=VALIDATION / "traces" / "{workload}" / "{policy}" / RECORDS,
        runs=VALIDATION / "traces" / "{workload}" / "{policy}" / "runs.csv",
    params:
        **STEP.of(
            "evaluation.validation.recorded_runs:measure_trace",
            lambda cell: reads.trace_keys(SETTINGS, cell.workload, cell.policy),
            policies=lambda cell: [cell.policy],
        ),
        tables=subpath(input.costs, parent=True),
        builds=BUILDS,
        output=subpath(output.records),
    log:
        LOGS / "validation_trace" / "{workload}-{policy}.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Recording a trace: {wildcards.policy}, {wildcards.workload}, on this machine (progress: {log})"
    script:
        SCRIPT


rule validation:
    input:
        costs=LAYOUT.costs(HOST),
        co_runs=rules.co_runs.output[0],
        records=TRACES,
        described=R / "costs" / "threadripper-3990x" / "costs.parquet",
        traffic=rules.layer_traffic.output[0],
    output:
        figures=R / "benchmarks" / "validation.json",
        report=R / "validation.md",
        record=VALIDATION / "record.json",
        tables=VALIDATION_TABLES,
    params:
        **VALIDATE,
        tables=subpath(input.costs, parent=True),
        described=subpath(input.described, parent=True),
        written=VALIDATION,
        command="snakemake --cores all validation",
    log:
        LOGS / "validation.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing simulator and models with what was measured (progress: {log})"
    script:
        SCRIPT


# Everything that it needs is measured here first: probe, profile, co-runs and a short trace of each policy.
use rule validation as validate_machine with:
    input:
        costs=LAYOUT.costs(HOST),
        co_runs=rules.co_runs.output[0],
        records=TRACES,
        traffic=rules.layer_traffic.output[0],
    output:
        figures=R / "benchmarks" / "validate_machine.json",
        report=R / "validate_machine.md",
        record=VALIDATION / "machine" / "record.json",
        tables=expand(VALIDATION / "machine" / "{table}.csv", table=VALIDATED),
    params:
        **VALIDATE,
        tables=subpath(input.costs, parent=True),
        described=None,
        written=VALIDATION / "machine",
        command="snakemake --cores all validate_machine",
    log:
        LOGS / "validate_machine.log",
    message:
        "Whether this machine may be labelled validated (progress: {log})"


# With the figure of the traffic, which has a rule of its own.
use rule paper_figures as validation_figures with:
    input:
        VALIDATION_TABLES,
        LAYOUT.traffic_figure(),
        claims="veltair/data/claims.yaml",
    output:
        LAYOUT.validation_figures(),
    params:
        **STEP.of("evaluation.reports.paper_figures:draw_paper_figures"),
        names=list(FIDELITY),
        folder=VALIDATION,
        order=LAYOUT.policy_order(),
        **FIGURES,
    log:
        LOGS / "validation_figures.log",
    message:
        "Drawing measured against simulated"
