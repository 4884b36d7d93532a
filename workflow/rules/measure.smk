# The policies in real time: LoadGen's Server scenario against real kernels on pinned cores.


rule measure:
    input:
        costs=LAYOUT.costs(HOST),
        plans=PLANS,
        libraries=LIBRARIES,
    output:
        records=R / "measured" / "{workload}" / RECORDS,
        slots=R / "measured" / "{workload}" / SLOTS,
        verdicts=R / "measured" / "{workload}" / "verdicts.csv",
    params:
        **STEP.of(
            "evaluation.measurement.steps:measure_workload",
            lambda cell: reads.measurement_keys(SETTINGS, cell.workload, LAYOUT.compared),
            policies=lambda cell: LAYOUT.compared,
        ),
        policies=LAYOUT.compared,
        tables=subpath(input.costs, parent=True),
        builds=BUILDS,
        folder=subpath(output.records, parent=True),
        fits=FITS,
    log:
        LOGS / "measure" / "{workload}.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring all policies, {wildcards.workload}, on this machine (progress: {log})"
    script:
        SCRIPT


rule timelines:
    input:
        rules.measure.output.records,
    output:
        directory(FIGURES["figures"] / "timelines" / "{workload}"),
    params:
        **STEP.of("evaluation.reports.timelines:draw_timelines"),
        order=LAYOUT.policy_order(),
        folder=subpath(input[0], parent=True),
    log:
        LOGS / "timelines" / "{workload}.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing which block ran where: {wildcards.workload}"
    script:
        SCRIPT
