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
        benchmarks=[path for path in CLAIM_BENCHMARKS if path.exists()],
    output:
        text=R / "claims.md",
        data=R / "claims.json",
    params:
        benchmarks=CLAIM_BENCHMARKS[0].parent,
    log:
        LOGS / "claims.log",
    conda:
        ENVIRONMENT
    message:
        "Judging the paper's claims"
    script:
        "../scripts/claims.py"


rule redraw:
    params:
        folder=SHIPPED_STUDY,
        names=LAYOUT.redrawn(),
        order=LAYOUT.policy_order(),
        figures=VALUES["figures"],
        benchmarks=CLAIM_BENCHMARKS[0].parent,
        claims=R / "shipped_claims.md",  # beside claims.md, which a run of one's own writes
    log:
        LOGS / "redraw.log",
    conda:
        ENVIRONMENT
    message:
        "Drawing the figures of the paper, and judging its claims, from the shipped tables of the full grid"
    script:
        "../scripts/redraw.py"
