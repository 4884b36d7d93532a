# Servers over HTTP under LoadGen: anybody's, at a URL, and rivals. Asked for by `remote` of the configuration.
REMOTE_MODELS = list(SETTINGS.models_of(SETTINGS.measured.workloads[0]))


rule models:
    input:
        expand(R / "models" / "{model}.onnx", model=REMOTE_MODELS),


rule remote:
    input:
        models=expand(R / "models" / "{model}.onnx", model=REMOTE_MODELS),
    output:
        table=LAYOUT.remote_page.with_name(SLOTS),
        records=LAYOUT.remote_page.with_name(RECORDS),
        page=LAYOUT.remote_page,
    params:
        **STEP.of(
            "evaluation.runtimes.remote_study:measure_remote",
            lambda wildcards: [
                *(("models",), ("workloads",), ("tenants",), ("qos",), ("oracle",), ("measured",), ("remote",)),
                ("simulated", "drain_qos"),
            ],
        ),
        models={model: MODEL_FILES[model] for model in REMOTE_MODELS},
    log:
        LOGS / "remote.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring servers over HTTP (progress: {log})"
    script:
        SCRIPT
