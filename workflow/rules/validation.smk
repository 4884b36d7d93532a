# How far simulator and models are off on this machine: results/validation.md, results/benchmarks/validation.json.

VALIDATION = R / "validation"
VALIDATION_TABLES = expand(VALIDATION / "{table}.csv", table=["fidelity", "corun_fit", "cost_fit"])


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
        records=expand(
            R / "measured" / "{workload}" / "{policy}" / RECORDS,
            workload=SETTINGS.measured.workloads,
            policy=LAYOUT.compared,
        ),
        runs=expand(
            R / "measured" / "{workload}" / "{policy}" / "runs.csv",
            workload=SETTINGS.measured.workloads,
            policy=LAYOUT.compared,
        ),
        described=R / "costs" / "threadripper-3990x" / "costs.parquet",
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
        records=expand(
            VALIDATION / "traces" / "{workload}" / "{policy}" / RECORDS,
            workload=SETTINGS.measured.workloads,
            policy=LAYOUT.compared,
        ),
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



rule validation_figures:
    input:
        VALIDATION_TABLES,
    output:
        LAYOUT.validation_figures(),
    params:
        folder=VALIDATION,
        names=FIDELITY,
        figures=VALUES["figures"],
    log:
        LOGS / "validation_figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing measured against simulated"
    script:
        "../scripts/paper_figures.py"
