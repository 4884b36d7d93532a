# How far simulator and models are off on this machine: results/validation.md, results/benchmarks/validation.json.

VALIDATION = R / "validation"
VALIDATION_TABLES = expand(VALIDATION / "{table}.csv", table=["fidelity", "corun_fit", "cost_fit"])
TRACES = expand(
    VALIDATION / "traces" / "{workload}" / "{policy}" / RECORDS,
    workload=SETTINGS.measured.workloads,
    policy=LAYOUT.compared,
)


# On 2 cores with ResNet-50 and MobileNet-V2: 21 pairs, 8 rounds, about 2 minutes.
rule co_runs:
    input:
        costs=LAYOUT.costs(HOST),
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
    output:
        VALIDATION / "co_runs.parquet",
    params:
        settings=VALUES,
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
        "../scripts/co_runs.py"


# Of ResNet-50 and MobileNet-V2: 32 versions, about 80 s on one core. Nothing is timed.
rule traffic:
    input:
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
    output:
        VALIDATION / "traffic.csv",
    params:
        settings=VALUES,
        native=LAYOUT.native,
    log:
        LOGS / "traffic.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating caches under a sample of layers (progress: {log})"
    script:
        "../scripts/traffic.py"


rule traffic_figure:
    input:
        rules.traffic.output[0],
    output:
        LAYOUT.traffic_figure(),
    params:
        figures=VALUES["figures"],
    log:
        LOGS / "traffic_figure.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing modelled against simulated traffic"
    script:
        "../scripts/traffic_figure.py"


# On 2 cores with ResNet-50 and MobileNet-V2: two loads of 220 queries, about 1 minute a policy, 2 at most.
rule validation_trace:
    input:
        costs=LAYOUT.costs(HOST),
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
    output:
        records=VALIDATION / "traces" / "{workload}" / "{policy}" / RECORDS,
        runs=VALIDATION / "traces" / "{workload}" / "{policy}" / "runs.csv",
    params:
        settings=VALUES,
        code=lambda wildcards: POLICY_CODE[wildcards.policy],
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
        "../scripts/validation_trace.py"


rule validation:
    input:
        costs=LAYOUT.costs(HOST),
        co_runs=rules.co_runs.output[0],
        records=TRACES,
        described=R / "costs" / "threadripper-3990x" / "costs.parquet",
        traffic=rules.traffic.output[0],
    output:
        figures=R / "benchmarks" / "validation.json",
        report=R / "validation.md",
        tables=VALIDATION_TABLES,
    params:
        settings=VALUES,
    log:
        LOGS / "validation.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing simulator and models with what was measured (progress: {log})"
    script:
        "../scripts/validation.py"


# Everything that it needs is measured here first: probe, profile, co-runs and a short trace of each policy.
rule validate_machine:
    input:
        costs=LAYOUT.costs(HOST),
        co_runs=rules.co_runs.output[0],
        records=TRACES,
        traffic=rules.traffic.output[0],
    output:
        figures=R / "benchmarks" / "validate_machine.json",
        report=R / "validate_machine.md",
        tables=expand(
            VALIDATION / "machine" / "{table}.csv", table=["fidelity", "corun_fit", "cost_fit"]
        ),
    params:
        settings=VALUES,
    log:
        LOGS / "validate_machine.log",
    conda:
        ENVIRONMENT
    message:
        "Whether this machine may be labelled validated (progress: {log})"
    script:
        "../scripts/validation.py"



# With the figure of the traffic, which has a rule of its own.
rule validation_figures:
    input:
        VALIDATION_TABLES,
        LAYOUT.traffic_figure(),
    output:
        LAYOUT.validation_figures(),
    params:
        folder=VALIDATION,
        names=FIDELITY,
        order=LAYOUT.policy_order(),
        figures=VALUES["figures"],
    log:
        LOGS / "validation_figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing measured against simulated"
    script:
        "../scripts/paper_figures.py"
