# This machine, and what every version costs on it and on described machines.


rule machine:
    output:
        R / "machine" / "machine.yaml",
    params:
        **STEP.of("machine.steps:measure_machine"),
        cpu=SETTINGS.build.cpu,
        build_dir=str(LAYOUT.native),
    log:
        LOGS / "machine.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Probing this machine"
    script:
        SCRIPT


# What sharing cores costs: the record in veltair/data/engine is a copy of it. 11 seconds.
rule oversubscription:
    input:
        machine=R / "machine" / "machine.yaml",
    output:
        R / "machine" / "oversubscription.parquet",
    params:
        **STEP.of("machine.steps:sample_oversubscription"),
        build_dir=str(LAYOUT.native),
    log:
        LOGS / "oversubscription.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Measuring what it costs that threads share cores"
    script:
        SCRIPT


# On 2 cores with ResNet-50 and MobileNet-V2: about a minute, 10 seconds of it for what blocks cost beside kernels.
rule profile:
    input:
        machine=R / "machine" / "machine.yaml",
        plans=PLANS,
        libraries=LIBRARIES,
        oracles=ORACLES,
    output:
        expand(
            R / "costs" / HOST / "{table}",
            table=["costs.parquet", "layers.parquet", "versions.parquet", "machine.yaml", "block_costs.parquet"],
        ),
    params:
        **STEP.of(
            "evaluation.measurement.block_costs:profile_host",
            lambda wildcards: [("profile", name) for name in ("cores", "levels", "repeats")],
        ),
        builds=BUILDS | BATCH_BUILDS,
        build_dir=str(LAYOUT.native),
        folder=subpath(output[0], parent=True),
    log:
        LOGS / "profile.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Profiling all versions on this machine"
    script:
        SCRIPT


rule derive:
    input:
        costs=LAYOUT.costs(HOST),
        description=lambda wildcards: description_files(wildcards.machine),
    output:
        R / "costs" / "{machine}" / "costs.parquet",
    params:
        **STEP.of("machine.steps:derive_tables"),
        selection=SETTINGS.select.model_dump(mode="json"),
        source=subpath(input.costs, parent=True),
        folder=subpath(output[0], parent=True),
    log:
        LOGS / "derive" / "{machine}.log",
    conda:
        ENVIRONMENT
    message:
        "Modelling the costs on {wildcards.machine}"
    script:
        SCRIPT


ruleorder: profile > derive


# On 2 cores: 13 loads, 4 rounds, 5 readings of each working source, about 4 minutes.
rule interference:
    input:
        costs=LAYOUT.costs(HOST),
        plans=PLANS,
        libraries=LIBRARIES,
    output:
        fits=LAYOUT.interference,
        figures=expand(FIGURES["figures"] / "interference.{form}", form=SETTINGS.figures.formats),
    params:
        **STEP.of(
            "evaluation.measurement.interference_steps:write_fits",
            lambda wildcards: [("results",), ("figures", "formats")],
        ),
        builds=BUILDS,
        tables=subpath(input.costs, parent=True),
        output=subpath(output.fits),
        figure=FIGURES["figures"] / "interference",
    log:
        LOGS / "interference.log",
    conda:
        ENVIRONMENT
    threads: ALL_THREADS
    resources:
        cpu_lock=1,
    message:
        "Fitting sources of interference to co-runs of known pressure (progress: {log})"
    script:
        SCRIPT
