"""How well a run could be measured: were its answers right, LoadGen punctual, and the cores its own."""

from dataclasses import dataclass
from typing import Any

from veltair.evaluation.loadgen.logs import LoadGenSummary
from veltair.evaluation.loadgen.per_model import PerModelSummary
from veltair.evaluation.measurement.core_use import UNKNOWN, CoreUse


@dataclass(frozen=True, slots=True)
class RunQuality:
    """What tells whether a run says anything, and why it does not: `problem`, "" if it does.

    Delays are those of `LoadGenSummary`; `loadgen_runs` is its `promptness`, and `client` who sent the
    queries.
    """

    problem: str = ""
    wrong_answers: int = 0
    issue_delay_p50_s: float = 0.0
    issue_delay_p99_s: float = 0.0
    delivery_p99_s: float = 0.0
    use: CoreUse = UNKNOWN
    loadgen_runs: str = ""
    client: str = ""

    def columns(self) -> dict[str, Any]:
        """Return it as columns of a table."""
        return {
            "problem": self.problem,
            "wrong_answers": self.wrong_answers,
            "issue_delay_p50_s": self.issue_delay_p50_s,
            "issue_delay_p99_s": self.issue_delay_p99_s,
            "delivery_p99_s": self.delivery_p99_s,
            "others_share": self.use.others,
            "steal_share": self.use.steal,
            "loadgen_runs": self.loadgen_runs,
            "client": self.client,
        }


def run_quality(
    summary: LoadGenSummary | PerModelSummary, use: CoreUse, wrong_answers: int = 0
) -> RunQuality:
    """Return the quality of a run; of several problems, wrong answers are told first, then a late LoadGen."""
    wrong = f"{wrong_answers} wrong answers: build the models anew (rule `build`)" if wrong_answers else ""
    return RunQuality(
        wrong or summary.problem or use.problem,
        wrong_answers,
        summary.issue_delay_p50_s,
        summary.issue_delay_p99_s,
        summary.delivery_p99_s,
        use,
        summary.promptness.value,
        summary.client,
    )
