# The policies in real time: LoadGen's Server scenario against real kernels on pinned cores.


rule measure:
    input:
        costs=LAYOUT.costs(HOST),
        plans=PLANS,
        libraries=LIBRARIES,
        capacities=lambda cell: [
            LAYOUT.simulated(HOST, cell.workload, policy) / CAPACITY
            for policy in LAYOUT.load_policies(cell.policy)
        ],
    output:
        records=R / "measured" / "{workload}" / "{policy}" / RECORDS,
        capacity=R / "measured" / "{workload}" / "{policy}" / CAPACITY,
        runs=R / "measured" / "{workload}" / "{policy}" / "runs.csv",
        verdicts=R / "measured" / "{workload}" / "{policy}" / "verdicts.csv",
    params:
        **STEP.of(
            "evaluation.measurement.steps:measure_policy",
            lambda cell: reads.measurement_keys(SETTINGS, cell.workload, cell.policy),
            policies=lambda cell: [cell.policy],
        ),
        tables=subpath(input.costs, parent=True),
        builds=BUILDS,
        folder=subpath(output.records, parent=True),
        fits=FITS,
    log:
        LOGS / "measure" / "{workload}-{policy}.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring {wildcards.policy}, {wildcards.workload}, on this machine (progress: {log})"
    script:
        SCRIPT


rule timelines:
    input:
        rules.measure.output.records,
    output:
        directory(FIGURES["figures"] / "timelines" / "{workload}" / "{policy}"),
    params:
        **STEP.of("evaluation.reports.timelines:draw_timelines"),
        folder=subpath(input[0], parent=True),
    log:
        LOGS / "timelines" / "{workload}-{policy}.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing which block ran where: {wildcards.policy}, {wildcards.workload}"
    script:
        SCRIPT
