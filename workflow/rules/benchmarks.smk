# Each writes results/benchmarks/NAME.json = {"figures": {name: {value, unit, samples, command}}, "provenance": ...}.


rule benchmarks_main:
    input:
        costs=LAYOUT.costs(HOST),
        oracles=expand(R / "oracle" / "{model}.csv", model=SETTINGS.models),
    output:
        R / "benchmarks" / "main.json",
    params:
        settings=VALUES,
    log:
        LOGS / "benchmarks_main.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring our own speed: simulator and dispatcher"
    script:
        "../scripts/benchmarks_main.py"
