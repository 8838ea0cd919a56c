"""Judges the paper's claims by what results/ holds, and never without data.

python experiments/claims.py --results=results

Each claim is a function of the results directory that returns an estimate, its range and a
verdict. The table is printed and written to RESULTS/claims.md.
"""

import csv
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from absl import flags

from experiments import cli
from trpo_repro import checkpoint

RESULTS = flags.DEFINE_string("results", "results", "Directory of results; claims.md goes there.")

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "not enough data"
ROUNDING = 1e-9  # of the scale of returns: what two linear solves may disagree by


class Verdict(NamedTuple):
    """What the data say of a claim: a number with its range, and the judgment."""

    estimate: str
    verdict: str


def penalty_makes_steps_tiny(results: pathlib.Path) -> Verdict:
    """C8: the penalty coefficient C of eq. 9 makes steps prohibitively small.

    Max KL of Algorithm 1's first step over eq. 12's δ = 0.01, the range over processes; holds
    if every one is below a tenth.
    """
    record = json.loads((results / "theory" / "claims.json").read_text())
    ratios = [methods["Algorithm 1 (eq. 10)"]["first_max_kl"] / 0.01 for methods in record.values()]
    verdict = HOLDS if max(ratios) < 0.1 else FAILS
    return Verdict(f"first step's KL / δ: {min(ratios):.1e} to {max(ratios):.1e}", verdict)


def common_numbers_cut_variance(results: pathlib.Path) -> Verdict:
    """C9: common random numbers cut the variance of Q differences; SNR stays finite as Δt → 0.

    Holds if at every Δt and branch length the 95% interval of the variance lies below the one
    without them, and at the smallest Δt the SNR with them is above half that at the largest.
    """
    rows = _table(results / "vine" / "common_random_numbers.csv")
    ratios, separate, finite = [], [], []
    for (_, _), group in _groups(rows, ("task", "branch_seconds")):
        by = {
            (float(row["seconds_per_step"]), row["common_random_numbers"] == "True"): row
            for row in group
        }
        steps = sorted({seconds for seconds, _ in by})
        for seconds in steps:
            shared, apart = by[seconds, True], by[seconds, False]
            ratios.append(float(shared["variance"]) / float(apart["variance"]))
            separate.append(float(shared["variance_high"]) < float(apart["variance_low"]))
        finite.append(float(by[steps[0], True]["snr"]) > 0.5 * float(by[steps[-1], True]["snr"]))
    verdict = HOLDS if all(separate) and all(finite) else FAILS
    return Verdict(
        f"variance with / without: {min(ratios):.2g} to {max(ratios):.2g}; intervals apart in "
        f"{sum(separate)} of {len(separate)}; SNR kept in {sum(finite)} of {len(finite)}",
        verdict,
    )


def vine_has_less_variance(results: pathlib.Path) -> Verdict:
    """C10: vine's surrogate has much lower variance for the same number of Q-values.

    Gradient variance of vine over single path's; holds if every interval lies below.
    """
    rows = _table(results / "vine" / "surrogate_variance.csv")
    ratios, separate = [], []
    for _, group in _groups(rows, ("task", "policy_iterations")):
        by = {row["estimator"]: row for row in group}
        vine, single = by["vine"], by["single path, same Q-values"]
        ratios.append(float(vine["variance"]) / float(single["variance"]))
        separate.append(float(vine["variance_high"]) < float(single["variance_low"]))
    return Verdict(
        f"variance vine / single path: {min(ratios):.2g} to {max(ratios):.2g}; intervals apart in "
        f"{sum(separate)} of {len(separate)} settings",
        HOLDS if all(separate) else FAILS,
    )


def theory_holds(results: pathlib.Path) -> Verdict:
    """C11: Algorithm 1 improves monotonically; the bounds hold.

    Least change of η along its runs, and the largest violation of any identity or bound.
    """
    record = json.loads((results / "theory" / "claims.json").read_text())
    least = min(
        methods["Algorithm 1 (eq. 10)"]["least_change_of_return"] for methods in record.values()
    )
    rows = _table(results / "theory" / "violations.csv")
    worst = max(float(row["largest_violation"]) for row in rows)
    verdict = HOLDS if least >= -ROUNDING and worst < ROUNDING else FAILS
    return Verdict(f"least change of η {least:.1e}; largest violation {worst:.1e}", verdict)


CLAIMS: dict[str, Callable[[pathlib.Path], Verdict]] = {
    "C8": penalty_makes_steps_tiny,
    "C9": common_numbers_cut_variance,
    "C10": vine_has_less_variance,
    "C11": theory_holds,
}


def judge(results: pathlib.Path) -> dict[str, Verdict]:
    """Returns the verdict on every claim; missing files mean not enough data."""
    verdicts = {}
    for name, claim in CLAIMS.items():
        try:
            verdicts[name] = claim(results)
        except FileNotFoundError as error:
            missing = pathlib.Path(error.filename).relative_to(results)
            verdicts[name] = Verdict(f"{missing} is missing", UNKNOWN)
    return verdicts


def main(_):
    results = pathlib.Path(RESULTS.value)
    if not results.is_dir():
        cli.refuse(f"--results={results} is no directory")
    lines = ["| claim | | estimate | verdict |", "|---|---|---|---|"]
    for name, verdict in judge(results).items():
        statement = (CLAIMS[name].__doc__ or "").splitlines()[0].partition(": ")[2]
        statement = statement.replace("|", "\\|")
        lines.append(f"| {name} | {statement} | {verdict.estimate} | **{verdict.verdict}** |")
        print(f"{name:4} {verdict.verdict:15} {statement}\n     {verdict.estimate}")
    checkpoint.write_text(results / "claims.md", "\n".join(lines) + "\n")


def _table(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _groups(rows: list[dict], columns: Iterable[str]) -> Iterable[tuple[tuple, list[dict]]]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups.items()


if __name__ == "__main__":
    cli.run(main)
