# Each writes results/benchmarks/NAME.json = {"figures": {name: {value, unit, samples, command}}, "provenance": ...}.


rule benchmarks_simulator:
    input:
        many=LAYOUT.costs("threadripper-3990x"),
        small=LAYOUT.costs("threadripper-3990x-8"),
        large=LAYOUT.costs("threadripper-3990x-1024"),
    output:
        R / "benchmarks" / "simulator.json",
    params:
        settings=VALUES,
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
        "../scripts/benchmarks_simulator.py"


rule benchmarks_compiler:
    input:
        models=expand(R / "models" / "{model}.onnx", model=SETTINGS.models),
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
        oracles=expand(R / "oracle" / "{model}.csv", model=SETTINGS.models),
        machine=R / "machine" / "machine.yaml",
    output:
        R / "benchmarks" / "compiler.json",
    params:
        settings=VALUES,
        reuse=SETTINGS.search.reuse,
        searched=[LAYOUT.search] if LAYOUT.searches else [],
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
        "../scripts/benchmarks_compiler.py"


rule benchmarks_engine:
    input:
        models=expand(R / "models" / "{model}.onnx", model=SETTINGS.models),
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
        costs=LAYOUT.costs(HOST),
        machine=R / "machine" / "machine.yaml",
    output:
        R / "benchmarks" / "engine.json",
    params:
        settings=VALUES,
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
        "../scripts/benchmarks_engine.py"


# A process takes about 25 s for ResNet-50 and MobileNet-V2: twelve stay below 6 minutes.
rule tolerance:
    input:
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
        oracles=expand(R / "oracle" / "{model}.csv", model=SETTINGS.models),
        machine=R / "machine" / "machine.yaml",
    output:
        R / "premise" / "times.parquet",
    params:
        settings=VALUES,
        build=R / "native",
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
        "../scripts/tolerance.py"


rule premise:
    input:
        rules.tolerance.output,
    output:
        text=R / "premise.md",
        figures=expand(Path(SETTINGS.figures.folder) / "premise.{form}", form=SETTINGS.figures.formats),
    params:
        formats=VALUES["figures"]["formats"],
    log:
        LOGS / "premise.log",
    conda:
        ENVIRONMENT
    message:
        "Testing the premise: do parallel versions tolerate interference better?"
    script:
        "../scripts/premise.py"
