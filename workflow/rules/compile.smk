# ONNX -> candidates -> one library per model, checked against ONNX Runtime.
R = LAYOUT.results


rule model:
    output:
        R / "models" / "{model}.onnx",
    params:
        source=lambda wildcards: VALUES["models"][wildcards.model],
    log:
        LOGS / "model" / "{model}.log",
    conda:
        ENVIRONMENT
    message:
        "Writing {wildcards.model} as ONNX"
    script:
        "../scripts/model.py"


rule search:
    input:
        models=expand(R / "models" / "{model}.onnx", model=SETTINGS.models),
        machine=R / "machine" / "machine.yaml",
        shipped=LAYOUT.shipped_candidates(),
    output:
        R / "search" / "candidates.parquet",
        R / "search" / "traces.json.gz",
        R / "search" / "search.json",
    params:
        search=VALUES["search"],
        slack=SETTINGS.select.slack,
        work=R / "search" / "records",
    log:
        LOGS / "search.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Searching candidates of all layers (progress: {log})"
    script:
        "../scripts/search.py"


rule build:
    input:
        model=R / "models" / "{model}.onnx",
        candidates=LAYOUT.candidates(),
    output:
        plan=R / "build" / "{model}" / "plan.json",
        library=R / "build" / "{model}" / "kernels.so",
        constants=R / "build" / "{model}" / "constants.bin",
        versions=R / "build" / "{model}" / "versions.csv",
    params:
        reuse=SETTINGS.search.reuse,
        searched=[LAYOUT.search] if LAYOUT.searches else [],
        trials=SETTINGS.search.trials,
        select=VALUES["select"],
        cache=R / "cache",
    log:
        LOGS / "build" / "{model}.log",
    conda:
        ENVIRONMENT
    message:
        "Building the versions of {wildcards.model}"
    script:
        "../scripts/build.py"


rule oracle:
    input:
        model=R / "models" / "{model}.onnx",
        plan=R / "build" / "{model}" / "plan.json",
        library=R / "build" / "{model}" / "kernels.so",
    output:
        R / "oracle" / "{model}.csv",
    params:
        tolerance=SETTINGS.oracle.tolerance,
    log:
        LOGS / "oracle" / "{model}.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing every version of {wildcards.model} with ONNX Runtime"
    script:
        "../scripts/oracle.py"
