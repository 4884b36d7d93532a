"""Whether parallel versions tolerate interference better than local ones, as statistics.

Everything here is a function of the table that `interference_sensitivity` measures. Layers of one structure
share their versions and count as one; layers and processes are averaged before structures are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from veltair.machine.profile.corunner import ALONE

PremiseAnswer = Literal["supported", "not supported", "inconclusive"]
CONFIDENCE = 0.95  # of all conditions together
RESAMPLES = 2000
LEAST_PROCESSES = 6  # a bootstrap of fewer samples is far too sure
SMALLEST = 0.02  # an effect of less than 2 % is not worth a second version
CELL = ["process", "model", "layer", "version"]


@dataclass(frozen=True, slots=True)
class Effect:
    """A median over `count` samples, and its interval by bootstrap."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class CoRunnerEffect:
    """What one kind of co-runner does, by structure unless said otherwise.

    `slowdown`: time beside it ÷ alone, over all versions. `difference`: by what share the most local version
    is slowed down more than the most parallel one. `gain`: model latency with the versions chosen alone ÷
    with those chosen beside this co-runner, less 1, both beside it, in a process that took no part in
    choosing (a sample a process and model). `correlation`: Spearman's, of slowdown and blocking bytes within
    structures.
    """

    condition: str
    slowdown: Effect
    difference: Effect
    gain: Effect
    correlation: Effect

    @property
    def verdict(self) -> PremiseAnswer:
        """Supported: local versions suffer more, and switching gains; not: one of both is below 2 %."""
        if self.difference.high < SMALLEST or self.gain.high < SMALLEST:
            return "not supported"
        return "supported" if self.difference.low > 0 and self.gain.low > 0 else "inconclusive"


def analyse(table: pd.DataFrame, seed: int = 0) -> list[CoRunnerEffect]:
    """Return the finding of each condition, with intervals that hold for all together (Bonferroni).

    Raises ValueError if fewer than two structures have versions of unlike parallelism, or too few processes
    measured.
    """
    if table["process"].nunique() < LEAST_PROCESSES:
        raise ValueError(
            f"{table['process'].nunique()} processes measured; intervals need {LEAST_PROCESSES} or more"
        )
    alone, beside = _split(table)
    random = np.random.default_rng(seed)
    confidence = 1 - (1 - CONFIDENCE) / len(beside)
    return [_finding(cells, alone, kind, confidence, random) for kind, cells in beside.items()]


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return the slowdown of each structure's most local and most parallel version, where they differ.

    Columns: condition, structure, local, parallel.
    """
    alone, beside = _split(table)
    frames = [_ends(slowdowns(cells, alone)).assign(condition=kind) for kind, cells in beside.items()]
    return pd.concat(frames, ignore_index=True)


def overall(findings: list[CoRunnerEffect]) -> PremiseAnswer:
    """Return "supported" if it is for one co-runner, "not supported" if it is for none of them."""
    verdicts = {finding.verdict for finding in findings}
    if "supported" in verdicts:
        return "supported"
    return "inconclusive" if "inconclusive" in verdicts else "not supported"


def slowdowns(cells: pd.DataFrame, alone: "pd.Series[float]") -> pd.DataFrame:
    """Return the log slowdown of each version of a structure, averaged over layers, models and processes.

    Columns: structure, version, parallelism, blocking_bytes, log_slowdown.
    """
    slower = np.log(cells["seconds"].to_numpy() / alone.loc[cells.set_index(CELL).index].to_numpy())
    keys = ["structure", "version", "parallelism", "blocking_bytes"]
    return cells.assign(log_slowdown=slower).groupby(keys)["log_slowdown"].mean().reset_index()


def local_less_parallel(slower: pd.DataFrame) -> NDArray[np.float64]:
    """Return, for each structure, by what share its most local version is slowed more than its most parallel.

    The most local version has the largest blocking. Structures where one version is both are left out.
    """
    found = _ends(slower)
    shares: NDArray[np.float64] = (found["local"] / found["parallel"] - 1).to_numpy(np.float64)
    return shares


def switching_gains(cells: pd.DataFrame, alone: "pd.Series[float]") -> NDArray[np.float64]:
    """Return, for each process and model, what choosing versions beside the co-runner gains, held out.

    Versions are chosen by the medians of all other processes: once by times alone, once by times beside.
    """
    beside = cells.set_index(CELL)["seconds"]
    gains = []
    for process in cells["process"].unique():
        seconds = beside.xs(process, level="process")
        kept = seconds[_fastest(alone, process)].groupby("model").sum()
        switched = seconds[_fastest(beside, process)].groupby("model").sum()
        gains.extend((kept / switched - 1).to_list())
    return np.array(gains, dtype=np.float64)


def within(slower: pd.DataFrame) -> pd.DataFrame:
    """Return the versions of structures that have several, with both metrics as ranks' deviations.

    Columns: structure, blocking and slowdown: each rank within the structure less the structure's mean rank,
    scaled to [-0.5, 0.5], so that structures with many versions do not outweigh the others.
    """
    groups = slower[slower.groupby("structure")["blocking_bytes"].transform("nunique") > 1]
    groups = groups.assign(blocking=groups["blocking_bytes"], slowdown=groups["log_slowdown"])
    for metric in ("blocking", "slowdown"):
        ranks = groups.groupby("structure")[metric]
        groups[metric] = (ranks.rank() - 1) / (ranks.transform("size") - 1) - 0.5
    return groups[["structure", "blocking", "slowdown"]]


def _split(table: pd.DataFrame) -> "tuple[pd.Series[float], dict[str, pd.DataFrame]]":
    """Return the seconds of each cell alone, and the cells beside each kind of co-runner."""
    cells = table.groupby(["condition", *CELL], as_index=False).agg(
        seconds=("seconds", "median"),
        structure=("structure", "first"),
        parallelism=("parallelism", "first"),
        blocking_bytes=("blocking_bytes", "first"),
    )
    groups = {str(kind): group for kind, group in cells.groupby("condition")}
    return groups.pop(ALONE).set_index(CELL)["seconds"], groups


def _ends(slower: pd.DataFrame) -> pd.DataFrame:
    metrics = ["blocking_bytes", "parallelism"]
    local = slower.sort_values(metrics, ascending=[False, True]).groupby("structure").first()
    parallel = slower.sort_values(metrics[::-1], ascending=[False, True]).groupby("structure").first()
    found = pd.DataFrame(
        {"local": np.exp(local["log_slowdown"]), "parallel": np.exp(parallel["log_slowdown"])}
    )
    return found[(local["version"] != parallel["version"]).to_numpy()].reset_index()


def _finding(
    cells: pd.DataFrame,
    alone: "pd.Series[float]",
    kind: str,
    confidence: float,
    random: np.random.Generator,
) -> CoRunnerEffect:
    slower = slowdowns(cells, alone)
    difference = local_less_parallel(slower)
    if len(difference) < 2:
        raise ValueError(
            f"{len(difference)} structures have versions of unlike parallelism and blocking; search more "
            "trials or give more models"
        )
    typical = np.exp(slower.groupby("structure")["log_slowdown"].mean().to_numpy())
    return CoRunnerEffect(
        kind,
        _effect(typical, confidence, random),
        _effect(difference, confidence, random),
        _effect(switching_gains(cells, alone), confidence, random),
        _correlation(within(slower), confidence, random),
    )


def _fastest(seconds: "pd.Series[float]", left_out: object) -> pd.MultiIndex:
    """Return (model, layer, version) of the fastest version of each layer, over all processes but one."""
    others = seconds[seconds.index.get_level_values("process") != left_out]
    medians = others.groupby(["model", "layer", "version"]).median()
    return pd.MultiIndex.from_tuples(list(medians.groupby(["model", "layer"]).idxmin()))


def _effect(samples: NDArray[np.float64], confidence: float, random: np.random.Generator) -> Effect:
    return _bootstrap(samples, np.median, confidence, random)


def _correlation(ranks: pd.DataFrame, confidence: float, random: np.random.Generator) -> Effect:
    x, y = ranks["blocking"], ranks["slowdown"]
    products = pd.DataFrame({"xy": x * y, "xx": x * x, "yy": y * y})
    sums = products.groupby(ranks["structure"]).sum().to_numpy(np.float64)

    def statistic(chosen: NDArray[np.int64], axis: int = -1) -> NDArray[np.float64]:
        xy, xx, yy = np.moveaxis(sums[chosen].sum(axis=axis - 1 if axis < 0 else axis), -1, 0)
        known = xx * yy > 0
        return np.where(known, xy / np.sqrt(np.where(known, xx * yy, 1.0)), 0.0)

    return _bootstrap(np.arange(len(sums)), statistic, confidence, random)


def _bootstrap(
    samples: NDArray[Any], statistic: Callable[..., Any], confidence: float, random: np.random.Generator
) -> Effect:
    """Return a statistic with its percentile interval; the samples are drawn anew with replacement."""
    found = stats.bootstrap(
        (samples,),
        statistic,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        rng=random,
    )
    interval = found.confidence_interval
    return Effect(float(statistic(samples)), float(interval.low), float(interval.high), len(samples))
