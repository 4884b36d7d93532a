from functools import partial
from pathlib import Path

from veltair.evaluation.benchmarks.neighbour import neighbour_figures
from veltair.evaluation.experiment.scenario import Scenario
from veltair.evaluation.measurement.run import make_samples
from veltair.evaluation.measurement.study import MeasurementSettings
from veltair.machine.models.library import LoadedModel
from veltair.machine.workers.native_pool import NativePool


def test_a_run_beside_a_busy_program_is_compared_with_one_alone(
    scenario: Scenario, tiny_loaded: LoadedModel, c_build: Path
) -> None:
    models = {"tiny": tiny_loaded}
    samples = make_samples(models, scenario, seed=1)
    settings = MeasurementSettings(seconds=0.2, seed=3, drain_qos=1.0)
    launch = partial(NativePool, build_dir=c_build)
    figures = neighbour_figures(scenario, models, samples, launch, settings, rounds=2)
    assert set(figures) == {"neighbour_delay_p99_us", "neighbour_slowdown"}
    assert all(len(figure.samples) == 2 and figure.value > 0 for figure in figures.values())
