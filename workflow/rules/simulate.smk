# The policies in virtual time: first the capacity of each, then its records at loads that all share.
cell_keys = lambda cell: reads.simulation_keys(SETTINGS, cell.machine, [cell.workload], [cell.policy])


rule simulate_capacity:
    input:
        recorded=RECORDED_ONCE,
        costs=lambda wildcards: LAYOUT.costs(wildcards.machine),
    output:
        R / "simulated" / "{machine}" / "{workload}" / "{policy}" / CAPACITY,
    params:
        **STEP.of(
            "evaluation.simulation.steps:simulate_capacity",
            lambda cell: [*cell_keys(cell), reads.SEARCH],
            policies=lambda cell: [cell.policy],
        ),
        tables=subpath(input.costs, parent=True),
    log:
        LOGS / "simulate_capacity" / "{machine}-{workload}-{policy}.log",
    conda:
        ENVIRONMENT
    message:
        "Simulating {wildcards.policy}, {wildcards.workload}, on {wildcards.machine}: QPS at 95 % QoS"
    script:
        SCRIPT


use rule simulate_capacity as simulate_loads with:
    input:
        recorded=RECORDED_ONCE,
        costs=lambda wildcards: LAYOUT.costs(wildcards.machine),
        capacities=lambda cell: [
            LAYOUT.simulated(cell.machine, cell.workload, policy) / CAPACITY
            for policy in LAYOUT.load_policies(cell.policy)
        ],
    output:
        R / "simulated" / "{machine}" / "{workload}" / "{policy}" / RECORDS,
    params:
        **STEP.of(
            "evaluation.simulation.steps:simulate_loads",
            lambda cell: [*cell_keys(cell), reads.LOADS],
            policies=lambda cell: [cell.policy],
        ),
        tables=subpath(input.costs, parent=True),
    log:
        LOGS / "simulate_loads" / "{machine}-{workload}-{policy}.log",
    message:
        "Simulating {wildcards.policy}, {wildcards.workload}, on {wildcards.machine}: loads that all share"
