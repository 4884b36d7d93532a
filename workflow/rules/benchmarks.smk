# Each but `layer_times` writes results/benchmarks/NAME.json = {"figures": {name: {value, unit, samples, command}}, "provenance": ...}.
MODEL_FILES = {model: str(R / "models" / f"{model}.onnx") for model in SETTINGS.models}
# That benchmarks run, whatever the configuration compares.
BASELINES = ["baselines.fcfs_min:FcfsMin", "baselines.layer_wise:LayerWise", "baselines.planaria:Planaria"]
SERVED = [("models",), ("workloads",), ("qos",)]
REAL_FILES = read_yaml(shipped("real_files") / "files.yaml")
COMPARED = [*SERVED, ("policies",), ("preset",)]


rule benchmarks_simulator:
    input:
        many=LAYOUT.costs("threadripper-3990x"),
        small=LAYOUT.costs("threadripper-3990x-8"),
        large=LAYOUT.costs("threadripper-3990x-1024"),
    output:
        R / "benchmarks" / "simulator.json",
    params:
        **STEP.of(
            "evaluation.benchmarks.simulator:write_simulator",
            lambda wildcards: [*SERVED, ("simulated",)],
            starts=lambda wildcards: BASELINES,
        ),
        many=subpath(input.many, parent=True),
        small=subpath(input.small, parent=True),
        large=subpath(input.large, parent=True),
    log:
        LOGS / "benchmarks_simulator.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring the simulator: its speed, beside SimPy's, and as machines and queues grow"
    script:
        SCRIPT


rule benchmarks_compiler:
    input:
        models=MODELS,
        plans=PLANS,
        libraries=LIBRARIES,
        oracles=ORACLES,
        machine=R / "machine" / "machine.yaml",
    output:
        R / "benchmarks" / "compiler.json",
    params:
        **STEP.of(
            "evaluation.benchmarks.compiler:write_compiler",
            lambda wildcards: [("oracle",), ("select",), ("search",), ("build",)],
        ),
        models=MODEL_FILES,
        builds=BUILDS,
        stores=STORES,
    log:
        LOGS / "benchmarks_compiler.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring the kernels beside ONNX Runtime's, and the compiler (progress: {log})"
    script:
        SCRIPT


rule layer_times:
    input:
        models=MODELS,
        plans=PLANS,
        libraries=LIBRARIES,
        oracles=ORACLES,
        machine=R / "machine" / "machine.yaml",
    output:
        R / "benchmarks" / "layer_times.csv",
    params:
        **STEP.of(
            "evaluation.benchmarks.layer_times:write_layer_times",
            lambda wildcards: [("oracle",)],
        ),
        models=MODEL_FILES,
        builds=BUILDS,
    log:
        LOGS / "layer_times.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Timing each layer beside ONNX Runtime's own profile (progress: {log})"
    script:
        SCRIPT


# Of ResNet-50 and MobileNet-V2 on 2 cores: about half a minute.
rule native_block_costs:
    input:
        costs=LAYOUT.costs(HOST),
        plans=PLANS,
        libraries=LIBRARIES,
    output:
        R / "benchmarks" / "native_block_costs" / "block_costs.parquet",
    params:
        **STEP.of("evaluation.measurement.native_block_costs:write_native_block_costs"),
        builds=BUILDS,
        tables=subpath(input.costs, parent=True),
        build_dir=str(LAYOUT.native),
        output=subpath(output[0]),
    log:
        LOGS / "native_block_costs.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Sampling what the loop in C adds to blocks (progress: {log})"
    script:
        SCRIPT


rule benchmarks_engine:
    input:
        models=MODELS,
        plans=PLANS,
        libraries=LIBRARIES,
        costs=LAYOUT.costs(HOST),
        machine=R / "machine" / "machine.yaml",
    output:
        R / "benchmarks" / "engine.json",
    params:
        **STEP.of(
            "evaluation.benchmarks.engine:write_engine",
            lambda wildcards: [
                *(COMPARED + [("compared",), ("results",), ("profile", "costs"), ("oracle",)]),
                *(("measured",), ("engine",), ("simulated", "drain_qos")),
            ],
            policies=lambda wildcards: SETTINGS.policies,
            starts=lambda wildcards: BASELINES,
        ),
        models=MODEL_FILES,
        builds=BUILDS,
        tables=subpath(input.costs, parent=True),
    log:
        LOGS / "benchmarks_engine.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring the engine, and what it serves beside other runtimes (progress: {log})"
    script:
        SCRIPT


# It starts a service of its own and builds five small networks in it: with 2 quiet cores about 4 minutes.
rule benchmarks_service:
    input:
        machine=R / "machine" / "machine.yaml",
    output:
        R / "benchmarks" / "service.json",
    params:
        **STEP.of(
            "evaluation.benchmarks.service.write:write_service",
            lambda wildcards: [("measured", "seed")],
        ),
    log:
        LOGS / "benchmarks_service.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring the service: what it adds, whom it keeps apart, how it loads (progress: {log})"
    script:
        SCRIPT


# A process takes about 25 s for ResNet-50 and MobileNet-V2: twelve stay below 6 minutes.
rule tolerance:
    input:
        plans=PLANS,
        libraries=LIBRARIES,
        oracles=ORACLES,
        machine=R / "machine" / "machine.yaml",
    output:
        R / "premise" / "times.parquet",
    params:
        **STEP.of("evaluation.versions.premise_report:measure"),
        builds=list(BUILDS.values()),
        build_dir=str(LAYOUT.native),
        processes=12,
    log:
        LOGS / "tolerance.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring every version beside co-runners (progress: {log})"
    script:
        SCRIPT


rule premise:
    input:
        times=rules.tolerance.output[0],
    output:
        text=R / "premise.md",
        figures=expand(FIGURES["figures"] / "premise.{form}", form=SETTINGS.figures.formats),
    params:
        **STEP.of("evaluation.versions.premise_report:write_premise"),
        figure=FIGURES["figures"] / "premise",
        formats=FIGURES["formats"],
    log:
        LOGS / "premise.log",
    conda:
        ENVIRONMENT
    message:
        "Testing the premise: do parallel versions tolerate interference better?"
    script:
        SCRIPT


# Downloads 7 wheels where pip reaches a registry; what is not there is named with its reason. It times nothing.
rule real_files:
    output:
        R / "benchmarks" / "real_files.json",
    params:
        **STEP.of("evaluation.benchmarks.real_files:fetch_real_files"),
        files=REAL_FILES,
        folder=str(R / "real_files"),
    log:
        LOGS / "real_files.log",
    conda:
        ENVIRONMENT
    message:
        "Fetching ONNX files that others made"
    script:
        SCRIPT


# A file takes up to half a minute; one that is served a minute more, one that is searched three.
rule real_model:
    input:
        found=rules.real_files.output[0],
        machine=R / "machine" / "machine.yaml",
    output:
        R / "benchmarks" / "models" / "{file}.json",
    params:
        **STEP.of(
            "evaluation.benchmarks.models:measure_file",
            lambda wildcards: [("oracle",), ("select",), ("search",), ("build",)],
        ),
        wanted=lambda wildcards: REAL_FILES[wildcards.file],
        work=str(R / "real_files" / "work"),
    log:
        LOGS / "real_model" / "{file}.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Serving {wildcards.file} as a user's own (progress: {log})"
    script:
        SCRIPT


rule benchmarks_models:
    input:
        results=expand(rules.real_model.output[0], file=REAL_FILES),
    output:
        output=R / "benchmarks" / "models.json",
        report=R / "benchmarks" / "models.md",
    params:
        **STEP.of("evaluation.benchmarks.models:write_models"),
    log:
        LOGS / "benchmarks_models.log",
    conda:
        ENVIRONMENT
    message:
        "Counting what became of ONNX files that others made"
    script:
        SCRIPT
