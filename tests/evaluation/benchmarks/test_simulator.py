import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.table_builders import make_config, make_tables, noisy, write_made_up_tables
from veltair.config.part import parse_part, part_of
from veltair.evaluation.benchmarks import million_queries
from veltair.evaluation.benchmarks.million_queries import (
    order_of,
    peak_rss_mb,
    serve_in_fresh_process,
    serve_order,
)
from veltair.evaluation.benchmarks.simpy_queue import simpy_ends_s
from veltair.evaluation.benchmarks.simulator import (
    FCFS,
    FULL,
    LOAD,
    PLANARIA,
    RESOLUTION,
    SEED,
    Bench,
    Machines,
    Size,
    pending_figure,
    services,
    undisturbed,
    write_simulator,
)
from veltair.evaluation.experiment.scenario import scenario_of
from veltair.evaluation.metrics.capacity import CapacitySearch
from veltair.evaluation.simulation.run import find_pooled_capacity, noise_of
from veltair.evaluation.simulation.steps import simulation_settings
from veltair.machine.costs.block_costs import FREE, BlockCosts
from veltair.serving.simulator.noise import service_factors

BUILDER = {"builder": "models.resnet50:resnet50"}
CONFIG = make_config(
    models={"small": {**BUILDER, "qos_ms": 8}, "large": {**BUILDER, "qos_ms": 16}},
    simulated={"machines": ["host"], "workloads": ["mix"], "queries": 60},
)
FIGURES = {
    "events_per_s",
    "decisions_per_s",
    "profile_python_vs_c",
    "vs_simpy",
    "growth_1024",
    "growth_pending",
    "million_queries_s",
    "million_queries_rss_mb",
}


def bench(policy: str, **options) -> Bench:
    settings = replace(simulation_settings(CONFIG), costs=FREE)
    return Bench(scenario_of(CONFIG, make_tables(**options), "mix"), policy, settings)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What write_simulator writes for machines of 8, 4 and 16 cores."""
    folder = tmp_path_factory.mktemp("simulator")
    machines = Machines(*(write_made_up_tables(folder / str(cores), cores=cores) for cores in (8, 4, 16)))
    # As the rule does: with the keys that it declares.
    keys = [("models",), ("workloads",), ("qos",), ("simulated",)]
    config = parse_part(part_of(CONFIG.model_dump(mode="json"), keys), "rule benchmarks_simulator")
    write_simulator(config, machines, folder / "simulator.json", Size(60, 3, 600, 5))
    return json.loads((folder / "simulator.json").read_text())


def test_every_figure_is_the_median_of_its_samples_in_a_unit(document: dict) -> None:
    assert set(document["figures"]) == FIGURES
    for name, figure in document["figures"].items():
        assert figure["value"] == sorted(figure["samples"])[len(figure["samples"]) // 2] > 0, name
        assert figure["unit"] and figure["command"] == "snakemake --cores all benchmarks_simulator"
    assert len(document["figures"]["events_per_s"]["samples"]) == 3


def test_the_many_queries_are_served_in_a_process_of_their_own(document: dict) -> None:
    for name in ("million_queries_s", "million_queries_rss_mb"):
        assert "600 queries" in document["figures"][name]["unit"]


def test_simpy_and_the_simulator_agree_to_the_last_bit_on_a_first_come_first_served_queue() -> None:
    fcfs = bench(FCFS, cores=8, noise=noisy())
    trace = fcfs.arrivals(800.0)
    context = fcfs.scenario.context
    factors = service_factors(noise_of(fcfs.scenario, trace, SEED), context)
    records = fcfs.run(trace).records
    ends_s = simpy_ends_s(trace, services(fcfs), factors, 8)
    assert ends_s == {record.query.id: record.end_s for record in records}
    assert any(record.start_s > record.query.arrival_s for record in records)  # some had to wait


def test_the_cores_in_c_and_in_python_give_equal_records() -> None:
    full = bench(FULL, cores=8, slowdown=1.0, noise=noisy())
    arrivals = full.arrivals(300.0)
    assert full.run(arrivals).records == full.run(arrivals, core="python").records


def test_nobody_slows_anybody_down_on_an_undisturbed_site() -> None:
    scenario = undisturbed(bench(FCFS).scenario)
    assert scenario.cost_model is None
    assert not scenario.context.costs.repeats[["traffic_bytes", "footprint_bytes"]].to_numpy().any()


def test_the_services_of_a_policy_that_cuts_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"give a policy of whole models"):
        services(bench("baselines.layer_wise:LayerWise"))


def test_the_load_of_a_policy_that_serves_no_rate_is_planarias() -> None:
    # Starts of 2 and 3 layers, 4 ms each, leave nothing of targets of 8 and 16 ms to work in.
    layer_wise = bench("baselines.layer_wise:LayerWise")
    dear = replace(layer_wise, settings=replace(layer_wise.settings, costs=BlockCosts(start_s=0.004)))
    planaria = replace(dear, policy=PLANARIA)
    search = CapacitySearch(RESOLUTION)
    capacities = [
        find_pooled_capacity(one.scenario, one.make, one.settings, search, SEED).qps
        for one in (dear, planaria)
    ]
    assert capacities[0] == 0.0 < capacities[1]
    assert dear.loaded_qps() == planaria.loaded_qps() == LOAD * capacities[1]


def test_without_a_policy_that_serves_any_rate_there_is_no_load_to_measure_at() -> None:
    none = bench(FCFS)
    # A start takes longer than the targets of 8 and 16 ms.
    dear = replace(none, settings=replace(none.settings, costs=BlockCosts(start_s=1.0)))
    with pytest.raises(ValueError, match=r"FcfsMin and .*Planaria serve no rate of mix at 95 % QoS on toy"):
        dear.loaded_qps()


def test_as_many_queries_wait_at_first_as_the_figure_says() -> None:
    assert "50 queries at once ÷ 5" in pending_figure(bench(FULL), 5, 1).unit


def test_an_order_is_served_from_its_trace_to_the_table(tmp_path: Path) -> None:
    order = order_of(CONFIG, write_made_up_tables(tmp_path), "mix", FULL, 100.0, 70)
    served = serve_order(order)
    assert served.queries == 70 and 0 < served.satisfaction <= 1
    assert served.seconds > 0 and served.rss_mb == pytest.approx(peak_rss_mb(), rel=0.2)


def test_the_last_words_of_a_run_that_failed_are_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"serving 9 queries failed \(1\): .*no such folder"):
        serve_in_fresh_process(CONFIG, tmp_path / "no such folder", "mix", FULL, 1.0, 9)


def test_the_peak_of_a_process_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n")
    monkeypatch.setattr(million_queries, "STATUS", status)
    assert peak_rss_mb() == 2.0
