# Records -> tables -> figures and the summary; the smoke test's golden summary.


rule metrics:
    input:
        records=[folder / RECORDS for folder in LAYOUT.run_folders()],
        capacities=[folder / CAPACITY for folder in LAYOUT.run_folders()],
        costs=[LAYOUT.costs(machine) for machine in LAYOUT.machines()],
    output:
        expand(R / "metrics" / "{table}.csv", table=["capacity", "capacity_seeds", "rates", "model_rates", "targets"]),
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
        claims="veltair/data/claims.yaml",  # the paper's own values
    output:
        LAYOUT.figures(),
    params:
        folder=LAYOUT.metrics,
        names=LAYOUT.compared_figures(),
        order=LAYOUT.policy_order(),
        figures=VALUES["figures"],
    log:
        LOGS / "figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures"
    script:
        "../scripts/paper_figures.py"


rule version_study:
    input:
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        candidates=LAYOUT.candidates(),
        costs=R / "costs" / HOST / "costs.parquet",
    output:
        expand(R / "versions" / "{table}.csv", table=["saturation", "scatter", "sets"]),
    params:
        reuse=SETTINGS.search.reuse,
        searched=[LAYOUT.search] if LAYOUT.searches else [],
        select=VALUES["select"],
        machines=LAYOUT.describes,
        layers=VALUES["figures"]["layers"],
    log:
        LOGS / "version_study.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing selections of versions"
    script:
        "../scripts/version_study.py"


rule version_figures:
    input:
        rules.version_study.output,
    output:
        expand(
            Path(SETTINGS.figures.folder) / "versions_{name}.{form}",
            name=["saturation", "scatter", "sets"],
            form=SETTINGS.figures.formats,
        ),
    params:
        figures=VALUES["figures"],
    log:
        LOGS / "version_figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures about versions"
    script:
        "../scripts/version_figures.py"


rule summary:
    input:
        rules.metrics.output,
        figures=LAYOUT.figures(),
    output:
        R / "summary.md",
    params:
        order=LAYOUT.policy_order(),
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
