# Records -> tables -> figures and the summary; the smoke test's golden summary.


rule metrics:
    input:
        records=[folder / RECORDS for folder in LAYOUT.run_folders()],
        capacities=[folder / CAPACITY for folder in LAYOUT.run_folders()],
        costs=[LAYOUT.costs(machine) for machine in LAYOUT.machines()],
    output:
        expand(R / "metrics" / "{table}.csv", table=["capacity", "rates", "model_rates", "targets"]),
    params:
        settings=VALUES,
    log:
        LOGS / "metrics.log",
    conda:
        ENVIRONMENT
    message:
        "Computing the metrics"
    script:
        "../scripts/metrics.py"


rule figures:
    input:
        rules.metrics.output,
    output:
        LAYOUT.figures(),
    params:
        figures=VALUES["figures"],
    log:
        LOGS / "figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures"
    script:
        "../scripts/figures.py"


rule summary:
    input:
        rules.metrics.output,
        figures=LAYOUT.figures(),
    output:
        R / "summary.md",
    log:
        LOGS / "summary.log",
    conda:
        ENVIRONMENT
    message:
        "Writing the summary"
    script:
        "../scripts/summary.py"


rule smoke:
    input:
        rules.metrics.output,
        R / "summary.md",
        golden="tests/golden/smoke_summary.csv",
    output:
        R / "golden.csv",
    log:
        LOGS / "smoke.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing with the golden summary"
    script:
        "../scripts/smoke.py"
