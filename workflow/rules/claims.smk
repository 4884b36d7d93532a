# The paper's claims, judged by the tables of the study; and by benchmarks of the default run that are there.
CLAIM_BENCHMARKS = [
    Path("results") / "benchmarks" / f"{name}.json" for name in ("main", "compiler", "engine", "simulator", "validation")
]


rule claims:
    input:
        tables=rules.metrics.output,
        study=LAYOUT.study_tables(),
        claims="veltair/data/claims.yaml",
        # Of other runs: those that are there are read, none is made.
        files=[path for path in CLAIM_BENCHMARKS if path.exists()],
    output:
        text=R / "claims.md",
        data=R / "claims.json",
    params:
        **STEP.of("evaluation.claims.report:judge_claims"),
        metrics=LAYOUT.metrics,
        # A function, for the linter takes text for the prefix of an input, where benchmarks were run.
        benchmarks=lambda wildcards: str(CLAIM_BENCHMARKS[0].parent),
        output=subpath(output.text),
    log:
        LOGS / "claims.log",
    conda:
        ENVIRONMENT
    message:
        "Judging the paper's claims"
    script:
        SCRIPT


rule redraw:
    params:
        **STEP.of("evaluation.reports.paper_figures:redraw"),
        names=LAYOUT.redrawn(),
        order=LAYOUT.policy_order(),
        folder=SHIPPED_STUDY,
        **FIGURES,
        benchmarks=str(CLAIM_BENCHMARKS[0].parent),
        judged=R / "shipped_claims.md",  # beside claims.md, which a run of one's own writes
    log:
        LOGS / "redraw.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures of the paper, and judging its claims, from the shipped tables of the full grid"
    script:
        SCRIPT
