# Records -> tables -> figures and the summary; the smoke test's golden summary.


rule metrics:
    input:
        records=[folder / RECORDS for folder in [*LAYOUT.measured_folders(), *LAYOUT.simulated_folders()]],
        capacities=[folder / CAPACITY for folder in LAYOUT.simulated_folders()],
        slots=[folder / SLOTS for folder in LAYOUT.measured_folders()],
        costs=[LAYOUT.costs(machine) for machine in LAYOUT.machines()],
    output:
        LAYOUT.metric_tables(),
    params:
        **STEP.of(
            "evaluation.reports.steps:write_metrics",
            lambda wildcards: reads.metrics_keys(SETTINGS, LAYOUT.machines()),
        ),
        tables=[str(LAYOUT.tables(machine)) for machine in LAYOUT.machines()],
        simulated=[str(folder) for folder in LAYOUT.simulated_folders()],
        measured=[str(folder) for folder in LAYOUT.measured_folders()],
        folder=subpath(output[0], parent=True),
    log:
        LOGS / "metrics.log",
    conda:
        ENVIRONMENT
    message:
        "Computing the metrics"
    script:
        SCRIPT


rule figures:
    input:
        rules.metrics.output,
        claims="veltair/data/claims.yaml",  # the paper's own values
    output:
        LAYOUT.figures(),
    params:
        **STEP.of("evaluation.reports.paper_figures:draw_paper_figures"),
        names=LAYOUT.compared_figures(),
        order=LAYOUT.policy_order(),
        folder=subpath(input[0], parent=True),
        **FIGURES,
    log:
        LOGS / "figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures"
    script:
        SCRIPT


rule version_study:
    input:
        plans=PLANS,
        candidates=LAYOUT.candidates(),
        costs=R / "costs" / HOST / "costs.parquet",
        descriptions=[file for machine in LAYOUT.describes for file in description_files(machine)],
    output:
        expand(R / "versions" / "{table}.csv", table=["saturation", "scatter", "sets"]),
    params:
        **STEP.of("evaluation.versions.version_steps:write_version_tables"),
        builds=BUILDS,
        stores=STORES,
        costs=subpath(input.costs, parent=True),
        selection=SETTINGS.select.model_dump(mode="json"),
        machines=LAYOUT.describes,
        folder=subpath(output[0], parent=True),
    log:
        LOGS / "version_study.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing selections of versions"
    script:
        SCRIPT


rule version_figures:
    input:
        rules.version_study.output,
    output:
        expand(
            FIGURES["figures"] / "versions_{name}.{form}",
            name=["saturation", "scatter", "sets"],
            form=SETTINGS.figures.formats,
        ),
    params:
        **STEP.of("evaluation.versions.version_steps:draw_version_figures"),
        tables=subpath(input[0], parent=True),
        folder=FIGURES["figures"],
        formats=FIGURES["formats"],
    log:
        LOGS / "version_figures.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures about versions"
    script:
        SCRIPT


rule summary:
    input:
        rules.metrics.output,
        LAYOUT.equal_drops_table(),
        figures=LAYOUT.figures(),
    output:
        R / "summary.md",
    params:
        **STEP.of("evaluation.reports.steps:write_summary"),
        folder=subpath(input[0], parent=True),
        order=LAYOUT.policy_order(),
    log:
        LOGS / "summary.log",
    conda:
        ENVIRONMENT
    message:
        "Writing the summary"
    script:
        SCRIPT


rule smoke:
    input:
        rules.metrics.output,
        R / "summary.md",
        golden="tests/golden/smoke_summary.csv",
    output:
        R / "golden.csv",
    params:
        **STEP.of("evaluation.reports.steps:compare_golden"),
        folder=subpath(input[0], parent=True),
    log:
        LOGS / "smoke.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing with the golden summary"
    script:
        SCRIPT


# Of recorded files, not of this run's: it writes into docs/, always, in a second.
rule results_page:
    params:
        **STEP.of("evaluation.reports.results_page:write_results_page"),
        folder="docs/results",
        study=str(SHIPPED_STUDY),
        page="docs/results.md",
    log:
        LOGS / "results_page.log",
    conda:
        ENVIRONMENT
    message:
        "Writing docs/results.md from the recorded results"
    script:
        SCRIPT


# As above.
rule layer_times_page:
    params:
        **STEP.of("evaluation.reports.layer_times_page:write_layer_times_page"),
        folder="docs/results",
        page="docs/layer_times.md",
    log:
        LOGS / "layer_times_page.log",
    conda:
        ENVIRONMENT
    message:
        "Writing docs/layer_times.md from the recorded results"
    script:
        SCRIPT


# Of the policies' files: as above.
rule policies_page:
    params:
        **STEP.of("evaluation.reports.policies_page:write_policies_page"),
        folders=["baselines", "veltair/serving/policies"],
        page="docs/policies.md",
    log:
        LOGS / "policies_page.log",
    conda:
        ENVIRONMENT
    message:
        "Writing docs/policies.md from the docstrings of the policies"
    script:
        SCRIPT
