# The policies in real time: LoadGen's Server scenario against real kernels on pinned cores.


rule measure:
    input:
        costs=LAYOUT.costs(HOST),
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
        capacities=expand(
            R / "simulated" / HOST / "{workload}" / "{other}" / CAPACITY,
            other=LAYOUT.compared,
            allow_missing=True,
        ),
    output:
        records=R / "measured" / "{workload}" / "{policy}" / RECORDS,
        capacity=R / "measured" / "{workload}" / "{policy}" / CAPACITY,
        runs=R / "measured" / "{workload}" / "{policy}" / "runs.csv",
        verdicts=R / "measured" / "{workload}" / "{policy}" / "verdicts.csv",
    params:
        settings=VALUES,
        code=lambda wildcards: POLICY_CODE[wildcards.policy],
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
        "../scripts/measure.py"
