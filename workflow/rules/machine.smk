# This machine, and what every version costs on it and on described machines.


rule machine:
    output:
        R / "machine" / "machine.yaml",
    params:
        build=R / "native",
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
        "../scripts/machine.py"


# On 2 cores with ResNet-50 and MobileNet-V2: about a minute, 10 seconds of it for what blocks cost beside kernels.
rule profile:
    input:
        machine=R / "machine" / "machine.yaml",
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
        oracles=expand(R / "oracle" / "{model}.csv", model=SETTINGS.models),
    output:
        expand(
            R / "costs" / HOST / "{table}",
            table=["costs.parquet", "layers.parquet", "versions.parquet", "machine.yaml", "block_costs.parquet"],
        ),
    params:
        profile=VALUES["profile"],
        build=R / "native",
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
        "../scripts/profile.py"


rule derive:
    input:
        LAYOUT.costs(HOST),
    output:
        R / "costs" / "{machine}" / "costs.parquet",
    log:
        LOGS / "derive" / "{machine}.log",
    conda:
        ENVIRONMENT
    message:
        "Modelling the costs on {wildcards.machine}"
    script:
        "../scripts/derive.py"


ruleorder: profile > derive


# On 2 cores: 13 loads, 4 rounds, 5 readings of each working source, about 4 minutes.
rule interference:
    input:
        costs=LAYOUT.costs(HOST),
        plans=expand(R / "build" / "{model}" / "plan.json", model=SETTINGS.models),
        libraries=expand(R / "build" / "{model}" / "kernels.so", model=SETTINGS.models),
    output:
        fits=LAYOUT.interference,
        figures=expand(Path(SETTINGS.figures.folder) / "interference.{form}", form=SETTINGS.figures.formats),
    params:
        settings=VALUES,
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
        "../scripts/interference.py"
