# ONNX -> candidates -> one library per model, checked against ONNX Runtime.
R = LAYOUT.results
MODELS = expand(R / "models" / "{model}.onnx", model=NETWORKS)
PLANS = expand(R / "build" / "{model}" / "plan.json", model=NETWORKS)
LIBRARIES = expand(R / "build" / "{model}" / "kernels.so", model=NETWORKS)
ORACLES = expand(R / "oracle" / "{model}.csv", model=NETWORKS)


rule model:
    output:
        R / "models" / "{model}.onnx",
    params:
        **STEP.of(
            "compiler.steps:write_model",
            starts=lambda wildcards: filter(None, [source_of(wildcards).builder]),
        ),
        name=lambda wildcards: wildcards.model,
        builder=lambda wildcards: source_of(wildcards).builder,
        path=lambda wildcards: source_of(wildcards).onnx,
        shapes=lambda wildcards: {
            name: list(shape) for name, shape in source_of(wildcards).shapes.items()
        },
        constants=lambda wildcards: source_of(wildcards).model_dump(mode="json")["constants"],
        tolerance=SETTINGS.oracle.tolerance,
        queries=lambda wildcards: NETWORKS[wildcards.model][1],
    log:
        LOGS / "model" / "{model}.log",
    conda:
        ENVIRONMENT
    message:
        "Writing {wildcards.model} as ONNX"
    script:
        SCRIPT


rule search:
    input:
        models=MODELS,
        machine=R / "machine" / "machine.yaml",
        shipped=LAYOUT.shipped_candidates(),
    output:
        R / "search" / "candidates.parquet",
        R / "search" / "traces.json.gz",
        R / "search" / "search.json",
    params:
        **STEP.of("machine.steps:search_candidates"),
        search=SETTINGS.search.model_dump(mode="json"),
        slack=SETTINGS.select.slack,
        work=str(R / "search" / "records"),
        folder=subpath(output[0], parent=True),
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
        SCRIPT


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
        **STEP.of("compiler.steps:build_model"),
        stores=STORES,
        selection=SETTINGS.select.model_dump(mode="json"),
        cores=len(os.sched_getaffinity(0)),
        trials=SETTINGS.search.trials,
        folder=subpath(output.plan, parent=True),
        cache=str(R / "cache"),
        cpu=SETTINGS.build.cpu,
    log:
        LOGS / "build" / "{model}.log",
    conda:
        ENVIRONMENT
    message:
        "Building the versions of {wildcards.model}"
    script:
        SCRIPT


rule oracle:
    input:
        model=R / "models" / "{model}.onnx",
        plan=R / "build" / "{model}" / "plan.json",
        library=R / "build" / "{model}" / "kernels.so",
    output:
        R / "oracle" / "{model}.csv",
    params:
        **STEP.of("machine.steps:check_oracle"),
        build=subpath(input.plan, parent=True),
        tolerance=SETTINGS.oracle.tolerance,
    log:
        LOGS / "oracle" / "{model}.log",
    conda:
        ENVIRONMENT
    message:
        "Comparing every version of {wildcards.model} with ONNX Runtime"
    script:
        SCRIPT
