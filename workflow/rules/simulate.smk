# The policies in virtual time: first the capacity of each, then its records at loads that all share.


rule simulate_capacity:
    input:
        costs=lambda wildcards: LAYOUT.costs(wildcards.machine),
    output:
        R / "simulated" / "{machine}" / "{workload}" / "{policy}" / CAPACITY,
    params:
        settings=VALUES,
        code=lambda wildcards: POLICY_CODE[wildcards.policy],
    log:
        LOGS / "simulate_capacity" / "{machine}-{workload}-{policy}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.policy}, {wildcards.workload}, on {wildcards.machine}: QPS at 95 % QoS"
    script:
        "../scripts/simulate_capacity.py"


rule simulate_loads:
    input:
        costs=lambda wildcards: LAYOUT.costs(wildcards.machine),
        capacities=expand(
            R / "simulated" / "{machine}" / "{workload}" / "{other}" / CAPACITY,
            other=LAYOUT.compared,
            allow_missing=True,
        ),
    output:
        R / "simulated" / "{machine}" / "{workload}" / "{policy}" / RECORDS,
    params:
        settings=VALUES,
        code=lambda wildcards: POLICY_CODE[wildcards.policy],
    log:
        LOGS / "simulate_loads" / "{machine}-{workload}-{policy}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.policy}, {wildcards.workload}, on {wildcards.machine}: loads that all share"
    script:
        "../scripts/simulate_loads.py"
