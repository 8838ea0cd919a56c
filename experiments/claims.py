"""Judges the paper's claims by what results/ holds, and never without data.

python experiments/claims.py --results=results --budget=medium

Each claim is a function of the results that returns an estimate, its range and a verdict. The
table is printed, and written to RESULTS/claims.md with what each is judged by. C1 to C13 are the
paper's and the lectures'; Q1 to Q6 are questions beside them. C1 to C7, C13, Q1 to Q3, Q5 and Q6
are judged by the runs of Figure 4 of the given budget.
"""

import contextlib
import dataclasses
import inspect
import json
import pathlib
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from experiments import atari, configs, figure4, listing, published_scores
from trpo_repro import files
from trpo_repro.analysis import curves, intervals, plots, tables
from trpo_repro.commands import cli

flags.declare_key_flag("budget")
RESULTS = flags.DEFINE_string("results", "results", "Directory of results; claims.md goes there.")

HOLDS, FAILS = "holds", "does not hold"
UNDECIDED = "undecided"  # the data are there, and their interval allows both
UNKNOWN = "not enough data"
SMALLER_BATCHES = (
    "On hopper and walker the batches of budget `medium` are smaller than Table 2's: what does not "
    "hold there may hold with the paper's."
)
CRITERIA = f"""Final performance is the mean reward per time step of the last tenth of iterations;
learning speed is the mean over all iterations of the gain over the untrained policy; of a sweep,
each is of the value that is best by it. Ranges of these are 95% intervals over seeds, of normal
values: Student's of a mean, and of a difference seed by seed, since runs of a seed begin with the
same policy; Fieller's of a ratio, seed by seed.
{SMALLER_BATCHES}"""
ROUNDING = 1e-9  # of the scale of returns: what two linear solves may disagree by


class Verdict(NamedTuple):
    """What the data say of a claim.

    Attributes:
      estimate: numbers with their ranges.
      verdict: HOLDS, FAILS, UNDECIDED or UNKNOWN.
      parts: judgment → the parts of the claim that it is of; empty for a claim without parts.
    """

    estimate: str
    verdict: str
    parts: Mapping[str, Sequence[str]] = types.MappingProxyType({})

    @property
    def summary(self) -> str:
        """The verdict's reason in a few words."""
        if not self.parts:
            return self.estimate
        words = {HOLDS: "yes", FAILS: "no", UNDECIDED: "undecided", UNKNOWN: "lacks data"}
        return "; ".join(
            f"{words[judgment]}: {', '.join(self.parts[judgment])}"
            for judgment in words
            if judgment in self.parts
        )


MIN_SEEDS = 3
# Reward per time step from which a task counts as solved: nine tenths of cart-pole's 10, and more
# than standing still in hopper and walker. Swimmer has no such mark: better than untrained.
SOLVED = {"cartpole": 9.0, "hopper": 1.0, "walker": 1.0}
SIMILAR = 0.2  # relative difference within which two learning speeds count as similar
CATASTROPHE = 0.5  # of the gain so far: what a catastrophic update loses


Performance = Callable[[Sequence[figure4.Run]], np.ndarray]  # runs → [S], a number a seed


class NotEnoughDataError(Exception):
    """What a claim needs has not been run."""


class Setting(NamedTuple):
    """A value of an algorithm's sweep.

    Attributes:
      text: the value in words; empty without a sweep.
      at_edge: whether it is the least or the largest of the sweep, beyond which may be a better.
    """

    text: str
    at_edge: bool


@dataclasses.dataclass(frozen=True)
class Results:
    """What the claims are judged by: files, each read once.

    Attributes:
      directory: directory of the results.
      budget: budget of Figure 4's runs, a key of configs.BUDGETS.
    """

    directory: pathlib.Path
    budget: str = "medium"
    _read: dict[tuple, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def planned(self, task: str) -> list[figure4.Run]:
        """Returns Figure 4's runs of a task."""
        if () not in self._read:
            self._read[()] = figure4.planned(self.budget, self.directory)
        return [run for run in self._read[()] if run.task == task]

    def best(
        self, task: str, algorithm: str, performance: Performance = figure4.final
    ) -> list[figure4.Run]:
        """Returns the finished runs of an algorithm, by seed; of a sweep, of its best setting.

        Args:
          task: task of Figure 4.
          algorithm: key of configs.ALGORITHMS.
          performance: what a setting is best by.
        """
        key = task, algorithm, performance
        if key not in self._read:
            self._read[key] = figure4.best(self.planned(task), task, algorithm, performance)
        return self._read[key]

    def runs(
        self, task: str, algorithm: str, performance: Performance = figure4.final
    ) -> list[figure4.Run]:
        """Returns `best` where there is enough of it.

        Raises:
          NotEnoughDataError: there are fewer than MIN_SEEDS, of any setting of a sweep.
        """
        if (task, algorithm, "enough") not in self._read:
            self._check_seeds(task, algorithm)
            self._read[task, algorithm, "enough"] = True
        return self.best(task, algorithm, performance)

    def _check_seeds(self, task: str, algorithm: str) -> None:
        seeds: dict[str, int] = {}
        for run in self.planned(task):
            if run.algorithm == algorithm and not run.screening:
                seeds[run.setting] = seeds.get(run.setting, 0) + run.done
        for setting, count in seeds.items():
            if count < MIN_SEEDS:
                raise NotEnoughDataError(
                    f"{count} of {MIN_SEEDS} seeds of {task}/{setting} at budget={self.budget}"
                )
        if not seeds:
            raise NotEnoughDataError(
                f"no finished sweep of {task}/{algorithm} at budget={self.budget}"
            )

    def fastest(self, task: str, algorithm: str) -> Setting:
        """Returns the setting that an algorithm's learning speed is of."""
        sweep = configs.ALGORITHMS[algorithm].sweep
        if sweep is None:
            return Setting("", at_edge=False)
        field, values = sweep
        fastest = self.runs(task, algorithm, figure4.mean_over_iterations)
        chosen = getattr(fastest[0].config, field)
        at_edge = chosen in (min(values), max(values))
        text = f" at {configs.SWEPT[field]} = {chosen:g}"
        return Setting(text + " (the edge of its sweep)" * at_edge, at_edge)

    def final(self, task: str, algorithm: str) -> np.ndarray:
        """Returns the final performance of each seed, [S]."""
        return figure4.final(self.runs(task, algorithm))

    def untrained(self, task: str) -> float:
        """Returns the mean reward per time step of the first iteration's policies."""
        return float(np.nanmean(figure4.seed_curves(self.runs(task, "single_path"))[:, 0]))

    def pairs(
        self, task: str, first: str, second: str, performance: Performance = figure4.final
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the performance of two algorithms in the seeds that both have, [S] each.

        Raises:
          NotEnoughDataError: these are fewer than MIN_SEEDS.
        """
        both = [self.runs(task, name, performance) for name in (first, second)]
        seeds = {run.config.seed for run in both[0]} & {run.config.seed for run in both[1]}
        if len(seeds) < MIN_SEEDS:
            raise NotEnoughDataError(
                f"{len(seeds)} of {MIN_SEEDS} seeds that {task}/{first} and {second} share"
            )
        one, other = ([run for run in runs if run.config.seed in seeds] for runs in both)
        return performance(one), performance(other)


def _relative_difference(first: np.ndarray, second: np.ndarray) -> intervals.Interval:
    """Returns mean(first) / mean(second) − 1, of pairs.

    Raises:
      NotEnoughDataError: the interval of mean(second) reaches 0, where the ratio means nothing.
    """
    reference = intervals.of_mean(second)
    if not reference.above(0):
        raise NotEnoughDataError(f"what to compare with is not above 0: {reference}")
    return intervals.Interval(*(end - 1 for end in intervals.of_paired_ratio(first, second)))


def _relative_speed(
    results: Results, task: str, name: str, reference: str = "single_path"
) -> intervals.Interval:
    """Returns an algorithm's learning speed over another's, − 1, each at its fastest setting.

    Learning speed is the mean over iterations of the gain over the untrained policy.

    Raises:
      NotEnoughDataError: there are too few runs, or the other learned nothing.
    """
    pairs = results.pairs(task, name, reference, figure4.mean_over_iterations)
    return _relative_difference(*(each - results.untrained(task) for each in pairs))


def _interval(row: Mapping[str, str], name: str) -> intervals.Interval:
    """Returns a number of a table with the ends of its interval."""
    return intervals.Interval(*(float(row[f"{name}{end}"]) for end in ("", "_low", "_high")))


def _percent(interval: intervals.Interval) -> str:
    return f"{interval.low:+.0%} to {interval.high:+.0%}"


def _judged(holds: bool, fails: bool) -> str:
    return HOLDS if holds else FAILS if fails else UNDECIDED


def _less(first: Mapping[str, str], second: Mapping[str, str], name: str) -> str:
    """Returns the judgment that a number of the first row is below the second's, by intervals."""
    one, other = _interval(first, name), _interval(second, name)
    return _judged(one.below(other.low), one.above(other.high))


def _not_faster(verdict: str, setting: Setting) -> str:
    """Returns the judgment that an algorithm is not faster, where it may be at another setting."""
    return UNKNOWN if setting.at_edge and verdict != FAILS else verdict


def _all(judgments: Sequence[str]) -> str:
    """Returns the judgment on a claim whose every part must hold."""
    for verdict in (FAILS, UNKNOWN, UNDECIDED):
        if verdict in judgments:
            return verdict
    return HOLDS


def _each(
    parts: Iterable[str],
    judge_part: Callable[[str], Verdict],
    combine: Callable[[Sequence[str]], str] = _all,
) -> Verdict:
    """Judges a claim of several parts, of which one may lack data."""
    texts, judgments = [], {}
    for part in parts:
        try:
            verdict = judge_part(part)
        except NotEnoughDataError as error:
            verdict = Verdict(str(error), UNKNOWN)
        texts.append(f"{part}: {verdict.estimate}")
        judgments[part] = verdict.verdict
    found = {
        judgment: [part for part in judgments if judgments[part] == judgment]
        for judgment in dict.fromkeys(judgments.values())
    }
    return Verdict("; ".join(texts), combine(list(judgments.values())), found)


def trpo_is_best(results: Results) -> Verdict:
    """C1: single path and vine solve all four locomotion tasks, best of all methods.

    Solved: the interval of the final performance lies above the task's mark; not, if it lies
    below. Best: by the interval of the difference to the better of the two, no other method's final
    performance is higher by a fifth of that one's gain over the untrained policy; not, if another's
    is higher at all. (CEM's and CMA's curves are of their candidates, which are a
    little worse than the middle of their search; they are judged by undiscounted returns, which
    they maximize.)
    """

    def of_task(task):
        ours = {name: results.final(task, name) for name in ("single_path", "vine")}
        best = max(ours, key=lambda name: ours[name].mean())
        untrained = results.untrained(task)
        mark, margin = SOLVED.get(task, untrained), SIMILAR * (ours[best].mean() - untrained)
        texts, judgments = [], []
        for name, values in ours.items():
            estimate = intervals.of_mean(values)
            judgments.append(_judged(estimate.above(mark), estimate.below(mark)))
            texts.append(f"{name} {estimate}")
        texts.append(f"mark {mark:.3g}")
        for name in configs.FIGURE4[task]:
            if name in ours:
                continue
            final, reference = results.pairs(task, name, best)
            difference = intervals.of_mean(final - reference)
            is_higher = difference.above(0)
            judgments.append(_judged(not is_higher and difference.below(margin), is_higher))
            if judgments[-1] != HOLDS:
                ends = f"{difference.low:+.3g} to {difference.high:+.3g}"
                texts.append(f"{name} − {best} {ends}")
        return Verdict(", ".join(texts), _all(judgments))

    return _each(configs.FIGURE4, of_task)


def natural_gradient_lacks_gaits(results: Results) -> Verdict:
    """C2: natural gradient does well on cart-pole and swimmer, no gait on hopper and walker.

    Well: at least half of single path's gain over the untrained policy. No gait: a final reward
    per time step below 1, which is standing still, where single path's is above. All by intervals
    over seeds.
    """

    def of_task(task):
        ours, reference = (
            results.final(task, name) for name in ("natural_gradient", "single_path")
        )
        if task in ("hopper", "walker"):
            final, walking = intervals.of_mean(ours), intervals.of_mean(reference)
            judgment = _judged(final.below(1), final.above(1))
            if judgment == HOLDS and not walking.above(1):
                judgment = UNKNOWN
            return Verdict(f"{final}, single path {walking}", judgment)
        pairs = results.pairs(task, "natural_gradient", "single_path")
        gain = _relative_difference(*(each - results.untrained(task) for each in pairs))
        judgment = _judged(gain.above(-0.5), gain.below(-0.5))
        ends = f"{1 + gain.low:.0%} to {1 + gain.high:.0%}"
        return Verdict(f"gain {ends} of single path's", judgment)

    return _each(configs.FIGURE4, of_task)


def search_does_poorly_on_large_problems(results: Results) -> Verdict:
    """C3: CEM and CMA do poorly on the larger problems.

    Holds for a task if the final performance of each that Figure 4 shows there is below single
    path's by the interval of the difference.
    """

    def of_task(task):
        texts, judgments = [], []
        for name in ("cem", "cma"):
            if name not in configs.FIGURE4[task]:
                continue
            final, reference = results.pairs(task, name, "single_path")
            difference = intervals.of_mean(final - reference)
            texts.append(f"{name} − single path {difference.low:+.3g} to {difference.high:+.3g}")
            judgments.append(_judged(difference.below(0), difference.above(0)))
        return Verdict(", ".join(texts), _all(judgments))

    return _each(("swimmer", "hopper", "walker"), of_task)


def max_kl_is_slower(results: Results) -> Verdict:
    """C4: max KL learns somewhat more slowly than mean KL, with similar effect.

    On cart-pole: learning speed below single path's, final performance within a fifth of it.
    """
    speed = _relative_speed(results, "cartpole", "max_kl")
    final = _relative_difference(*results.pairs("cartpole", "max_kl", "single_path"))
    slower = _judged(speed.below(0), speed.above(0))
    similar = _judged(final.within(-SIMILAR, SIMILAR), final.outside(-SIMILAR, SIMILAR))
    text = f"speed {_percent(speed)}, final {_percent(final)}"
    return Verdict(text, _all([slower, similar]))


def empirical_fisher_is_as_fast(results: Results) -> Verdict:
    """C5: the empirical FIM improves at a similar rate to the analytic one.

    Learning speeds within a fifth, on cart-pole and swimmer.
    """
    return _each(configs.ABLATION_TASKS, lambda task: _as_fast(results, task, "empirical_fim"))


def _as_fast(results: Results, task: str, name: str) -> Verdict:
    """Judges whether an algorithm's learning speed is within a fifth of single path's."""
    relative = _relative_speed(results, task, name)
    verdict = _judged(relative.within(-SIMILAR, SIMILAR), relative.outside(-SIMILAR, SIMILAR))
    return Verdict(f"relative speed {_percent(relative)}", verdict)


def line_search_prevents_catastrophes(results: Results) -> Verdict:
    """C6: without the line search, updates occasionally degrade performance catastrophically.

    Counts iterations in each of which a run loses at least half of its best gain so far over the
    untrained policy, where that gain is above three deviations of the curve's noise. Holds where
    runs without the line search have more of them, by the interval of the difference of the counts
    a run, over runs. Undecided where no run has any.
    """

    def of_task(task):
        def falls(runs):
            gains = figure4.seed_curves(runs) - results.untrained(task)
            return np.array([_catastrophes(curve) for curve in gains], float)

        counts = results.pairs(task, "truncated_natural_gradient", "single_path", falls)
        difference = intervals.of_mean(counts[0] - counts[1])
        text = f"{counts[0].mean():.2g} a run without, {counts[1].mean():.2g} with"
        text += f", difference {difference.low:+.2g} to {difference.high:+.2g}"
        seen = any(count.any() for count in counts)
        return Verdict(text, _judged(difference.above(0), seen and difference.high <= 0))

    def one_is_enough(judgments):  # "occasionally"; to deny it, every task must
        if HOLDS in judgments:
            return HOLDS
        for verdict in (UNKNOWN, UNDECIDED):
            if verdict in judgments:
                return verdict
        return FAILS

    return _each(configs.ABLATION_TASKS, of_task, one_is_enough)


def _catastrophes(gains: np.ndarray) -> int:
    """Returns how often a curve of gains, [I], falls at once by half of its best so far.

    A running best within three noise standard deviations of zero does not count. The noise is
    estimated from second differences, which are free of a trend, by their median, which single
    falls do not move.
    """
    best = np.fmax.accumulate(gains)
    scatter = np.nanmedian(np.abs(np.diff(gains, 2))) / 0.6745 / np.sqrt(6)
    falls = gains[:-1] - gains[1:]
    return int(np.sum((falls >= CATASTROPHE * best[:-1]) & (best[:-1] > 3 * scatter)))


def subsampling_costs_nothing(results: Results) -> Verdict:
    """C7: 10% of the data for the Fisher-vector product, and k = 10, cost no learning speed.

    On cart-pole and swimmer. Holds where neither all of the data nor k = 20 learns faster by a
    fifth or more. What a step of 20 products is worth on fresh batches, at one policy of other
    tasks, is beside it (`experiments/kfac.py`; ranges are over batches), and not judged.
    """
    verdict = _no_faster(results, ("fisher_1.0", "cg_20"))
    worths = []
    for task in (task for task in configs.KFAC_TASKS if task not in configs.ABLATION_TASKS):
        with contextlib.suppress(NotEnoughDataError):
            worths.append(f"{task} ×{_worth(results, task, damping='', products='20')}")
    if not worths:
        return verdict
    text = f"{verdict.estimate}; a step of 20 products over one of ten: {', '.join(worths)}"
    return verdict._replace(estimate=text)


def penalty_makes_steps_tiny(results: Results) -> Verdict:
    """C8: the penalty coefficient C of eq. 9 makes steps prohibitively small.

    Max KL of Algorithm 1's first step over eq. 12's δ = 0.01, the range over processes; holds
    if every one is below a tenth.
    """
    record = json.loads((results.directory / "theory" / "claims.json").read_text())
    ratios = [methods["Algorithm 1 (eq. 10)"]["first_max_kl"] / 0.01 for methods in record.values()]
    verdict = HOLDS if max(ratios) < 0.1 else FAILS
    return Verdict(f"first step's KL / δ: {min(ratios):.1e} to {max(ratios):.1e}", verdict)


def common_numbers_cut_variance(results: Results) -> Verdict:
    """C9: common random numbers cut the variance of Q differences; SNR stays finite as Δt → 0.

    Holds if at every Δt and branch length the 95% interval of the variance, over states, lies
    below the one without them, and at the smallest Δt the SNR with them is above half that at the
    largest; does not if an interval lies above, or an SNR is lost.
    """
    rows = tables.read_csv(results.directory / "vine" / "common_random_numbers.csv")
    ratios, less, finite = [], [], []
    for (_, _), group in tables.grouped(rows, ("task", "branch_seconds")).items():
        by = {
            (float(row["seconds_per_step"]), row["common_random_numbers"] == "True"): row
            for row in group
        }
        steps = sorted({seconds for seconds, _ in by})
        for seconds in steps:
            shared, apart = by[seconds, True], by[seconds, False]
            ratios.append(float(shared["variance"]) / float(apart["variance"]))
            less.append(_less(shared, apart, "variance"))
        finite.append(float(by[steps[0], True]["snr"]) > 0.5 * float(by[steps[-1], True]["snr"]))
    return Verdict(
        f"variance with / without: {min(ratios):.2g} to {max(ratios):.2g}; less in "
        f"{less.count(HOLDS)} of {len(less)}; SNR kept in {sum(finite)} of {len(finite)}",
        _all(less) if all(finite) else FAILS,
    )


def vine_has_less_variance(results: Results) -> Verdict:
    """C10: vine's surrogate has much lower variance for the same number of Q-values.

    Gradient variance of vine over single path's, of the same trunks; holds if in every setting the
    interval of the ratio, over batches, lies below 1, and does not if in one it lies above. Beside
    it are the signal-to-noise ratios of vine, of single path with as many Q-values and with as many
    simulator steps: where branches end before anything differs most of vine's gradients are 0, a
    low variance without a signal.
    """
    rows = tables.read_csv(results.directory / "vine" / "surrogate_variance.csv")
    settings = {
        f"{task} after {iterations} iterations": {row["estimator"]: row for row in group}
        for (task, iterations), group in tables.grouped(rows, ("task", "policy_iterations")).items()
    }

    def of_setting(name):
        ratio = _interval(settings[name]["vine"], "ratio")
        snr = " against ".join(f"{float(row['snr']):.2g}" for row in settings[name].values())
        return Verdict(f"×{ratio}, SNR {snr}", _judged(ratio.below(1), ratio.above(1)))

    return _each(settings, of_setting)


def theory_holds(results: Results) -> Verdict:
    """C11: Algorithm 1 improves monotonically; the bounds hold.

    Least change of η along its runs, and the largest violation of any identity or bound.
    """
    record = json.loads((results.directory / "theory" / "claims.json").read_text())
    least = min(
        methods["Algorithm 1 (eq. 10)"]["least_change_of_return"] for methods in record.values()
    )
    rows = tables.read_csv(results.directory / "theory" / "violations.csv")
    worst = max(float(row["largest_violation"]) for row in rows)
    verdict = HOLDS if least >= -ROUNDING and worst < ROUNDING else FAILS
    return Verdict(f"least change of η {least:.1e}; largest violation {worst:.1e}", verdict)


def one_setting_plays_all_games(results: Results) -> Verdict:
    """C12: one method, one set of hyper-parameters, reaches reasonable scores on seven Atari games.

    Reasonable: single path's score after the paper's 500 iterations, which
    `experiments/atari.py --run --budget=paper` makes, is at least half of the way
    from random play to the score that the paper reports for it, in every game.
    """
    scores = {row["row"]: row for row in atari.published(results.directory / published_scores.FILE)}
    runs = {
        run.task: run
        for run in atari.planned("paper", results.directory / "atari", "*/single_path/*")
    }

    def of_game(game):
        if not runs[game].done:
            done, planned = runs[game].iterations, runs[game].config.iterations
            raise NotEnoughDataError(f"{done} of {planned} iterations")
        table = curves.read(runs[game].directory / "metrics.csv")
        random, paper = (scores[row][game] for row in ("random", "paper, single path"))
        share = (table["return_recent"][-1] - random) / (paper - random)
        return Verdict(f"{share:.0%} of the paper's gain", HOLDS if share >= 0.5 else FAILS)

    return _each(configs.GAMES, of_game)


def gradient_below_natural_gradient_below_trpo(results: Results) -> Verdict:
    """C13: the vanilla gradient is slower than the natural gradient, which is no better than TRPO.

    By learning speed, at the best step size of each. Slower: by the interval of the relative
    difference. No better: not faster by a fifth. Neither is known of a gradient whose best step
    size is the least or the largest that was tried.
    """

    def of_task(task):
        settings = [
            results.fastest(task, name) for name in ("vanilla_policy_gradient", "natural_gradient")
        ]
        vanilla = _relative_speed(results, task, "vanilla_policy_gradient", "natural_gradient")
        against = _relative_speed(results, task, "natural_gradient")
        slower = _not_faster(_judged(vanilla.below(0), vanilla.above(0)), settings[0])
        no_better = _not_faster(
            _judged(against.below(SIMILAR), against.above(SIMILAR)), settings[1]
        )
        text = (
            f"vanilla{settings[0].text} to natural{settings[1].text} {_percent(vanilla)}, "
            f"natural to TRPO {_percent(against)}"
        )
        return Verdict(text, _all([slower, no_better]))

    return _each(configs.GRADIENT_TASKS, of_task)


def _no_faster(results: Results, names: Sequence[str]) -> Verdict:
    """Judges whether none of the algorithms learns faster than single path by a fifth or more."""

    def of_pair(pair):
        task, _, name = pair.partition(" ")
        relative = _relative_speed(results, task, name)
        setting = results.fastest(task, name)
        verdict = _judged(relative.below(SIMILAR), relative.above(SIMILAR))
        text = f"relative speed{setting.text} {_percent(relative)}"
        return Verdict(text, _not_faster(verdict, setting))

    return _each([f"{task} {name}" for task in configs.ABLATION_TASKS for name in names], of_pair)


def penalties_are_no_faster(results: Results) -> Verdict:
    """Q1: no penalty, fixed or adaptive, nor PPO in the constraint's place is faster by a fifth.

    By learning speed against single path, each at the best of its multipliers or learning rates,
    which must not be the least or the largest that was tried. The fixed penalty's learning rate is
    not swept.
    """
    return _no_faster(results, ("fixed_penalty", "adaptive_penalty", "ppo"))


def adapting_the_limit_is_no_faster(results: Results) -> Verdict:
    """Q2: a δ that adapts to how well the surrogate is predicted is not faster by a fifth.

    By learning speed against δ = 0.01.
    """
    return _no_faster(results, ("adaptive_limit",))


def the_direction_of_the_kl_does_not_matter(results: Results) -> Verdict:
    """Q3: limiting KL(new ‖ old) learns as fast as limiting KL(old ‖ new), within a fifth.

    By learning speed, on cart-pole and swimmer.
    """
    return _each(configs.ABLATION_TASKS, lambda task: _as_fast(results, task, "reversed_kl"))


def two_products_are_enough(results: Results) -> Verdict:
    """Q5: two products of conjugate gradient are not worse than ten by a fifth.

    On cart-pole and swimmer: by learning speed. On other tasks: by what the step is worth on fresh
    batches, at one policy (`experiments/kfac.py`); ranges are over batches.
    """
    return _as_good_as_ten_products(results, "cg_2", damping="", products="2")


def kfac_needs_no_products(results: Results) -> Verdict:
    """Q6: K-FAC's own direction is not worse than ten products of conjugate gradient by a fifth.

    Judged as Q5 is, of one product with the factors' damping λ = 0.01.
    """
    return _as_good_as_ten_products(results, "kfac_1", damping="0.01", products="1")


def _as_good_as_ten_products(
    results: Results, algorithm: str, *, damping: str, products: str
) -> Verdict:
    """Judges a way to the direction, by its curves where there are some."""

    def of_task(task):
        if task in configs.ABLATION_TASKS:
            relative = _relative_speed(results, task, algorithm)
            verdict = _judged(relative.above(-SIMILAR), relative.below(-SIMILAR))
            return Verdict(f"relative speed {_percent(relative)}", verdict)
        worth = _worth(results, task, damping=damping, products=products)
        verdict = _judged(worth.above(1 - SIMILAR), worth.below(1 - SIMILAR))
        return Verdict(f"worth {worth} of ten products", verdict)

    return _each(configs.KFAC_TASKS, of_task)


def _worth(results: Results, task: str, *, damping: str, products: str) -> intervals.Interval:
    """Returns what a step's direction gains on fresh batches, over ten products' gain.

    Raises:
      NotEnoughDataError: that was not measured, or ten products' gain is not above 0.
    """
    path = results.directory / "kfac" / "kfac.csv"
    for row in tables.read_csv(path) if path.exists() else ():
        if (row["task"], row["damping"], row["products"]) == (task, damping, products):
            if not row["fresh_gain"]:
                raise NotEnoughDataError("ten products' worth is not above 0")
            return _interval(row, "fresh_gain")
    raise NotEnoughDataError(f"kfac.csv is missing {task}")


def each_part_lowers_the_variance(results: Results) -> Verdict:
    """Q4: from REINFORCE on, reward to go, a baseline and a control variate lower the variance.

    Holds on a task where every estimator's variance over that of the one before it, from the same
    paths, is below 1 by its interval over paths.
    """
    path = results.directory / "gradient_variance" / "gradient_variance.csv"
    tasks = tables.grouped(tables.read_csv(path), ("task",))

    def of_task(task):
        texts, judgments = [], []
        for row in tasks[(task,)]:
            if not row.get("ratio"):
                continue
            ratio = _interval(row, "ratio")
            texts.append(f"{row['estimator']} ×{ratio}")
            judgments.append(_judged(ratio.below(1), ratio.above(1)))
        if not judgments:
            raise NotEnoughDataError("no ratios of variances")
        return Verdict(", ".join(texts), _all(judgments))

    return _each([task for (task,) in tasks], of_task)


CLAIMS: dict[str, Callable[[Results], Verdict]] = {
    "C1": trpo_is_best,
    "C2": natural_gradient_lacks_gaits,
    "C3": search_does_poorly_on_large_problems,
    "C4": max_kl_is_slower,
    "C5": empirical_fisher_is_as_fast,
    "C6": line_search_prevents_catastrophes,
    "C7": subsampling_costs_nothing,
    "C8": penalty_makes_steps_tiny,
    "C9": common_numbers_cut_variance,
    "C10": vine_has_less_variance,
    "C11": theory_holds,
    "C12": one_setting_plays_all_games,
    "C13": gradient_below_natural_gradient_below_trpo,
    "Q1": penalties_are_no_faster,
    "Q2": adapting_the_limit_is_no_faster,
    "Q3": the_direction_of_the_kl_does_not_matter,
    "Q4": each_part_lowers_the_variance,
    "Q5": two_products_are_enough,
    "Q6": kfac_needs_no_products,
}
# The curves that a claim on learning is judged by: its tasks and algorithms.
CURVES: dict[str, tuple[Iterable[str], tuple[str, ...]]] = {
    "C2": (configs.FIGURE4, ("single_path", "natural_gradient")),
    "C3": (("swimmer", "hopper", "walker"), ("single_path", "cem", "cma")),
    "C4": (("cartpole",), ("single_path", "max_kl")),
    "C5": (configs.ABLATION_TASKS, ("single_path", "empirical_fim")),
    "C6": (configs.ABLATION_TASKS, ("single_path", "truncated_natural_gradient")),
    "C7": (configs.ABLATION_TASKS, ("single_path", "fisher_1.0", "cg_20")),
    "C13": (configs.GRADIENT_TASKS, ("single_path", "natural_gradient", "vanilla_policy_gradient")),
    "Q1": (
        configs.ABLATION_TASKS,
        ("single_path", "fixed_penalty", "adaptive_penalty", "ppo"),
    ),
    "Q2": (configs.ABLATION_TASKS, ("single_path", "adaptive_limit")),
    "Q3": (configs.ABLATION_TASKS, ("single_path", "reversed_kl")),
    "Q5": (configs.ABLATION_TASKS, ("single_path", "cg_2")),
    "Q6": (configs.ABLATION_TASKS, ("single_path", "kfac_1")),
}

BY_SPEED = ("C13", "Q1")  # of these, sweeps are judged and drawn at the fastest setting


def judge(results: Results, names: Iterable[str] = tuple(CLAIMS)) -> dict[str, Verdict]:
    """Returns the verdict on every claim; missing and other runs mean not enough data."""
    verdicts = {}
    for name in names:
        try:
            verdicts[name] = CLAIMS[name](results)
        except FileNotFoundError as error:
            missing = pathlib.Path(error.filename).relative_to(results.directory)
            verdicts[name] = Verdict(f"{missing} is missing", UNKNOWN)
        except (NotEnoughDataError, ValueError) as error:
            verdicts[name] = Verdict(str(error), UNKNOWN)
    return verdicts


def draw(results: Results, path: pathlib.Path, kind: str) -> bool:
    """Draws the curves that claims on learning are judged by; returns whether there are any.

    Args:
      results: what they are judged by.
      path: PNG to write.
      kind: what the names of the claims begin with: C, or Q for questions.
    """
    panels: dict[str, dict[str, list[pathlib.Path]]] = {}
    lengths, with_length = {}, []
    for claim, (tasks, algorithms) in CURVES.items():
        for task in tasks if claim.startswith(kind) else ():
            best_by = figure4.mean_over_iterations if claim in BY_SPEED else figure4.final
            found = {
                name: best for name in algorithms if (best := results.best(task, name, best_by))
            }
            if len(found) < 2:
                continue
            title = f"{claim}: {figure4.TITLES[task]}"
            asked = {run.algorithm for run in results.planned(task)}
            if missing := [name for name in algorithms if name in asked and name not in found]:
                labels = ", ".join(configs.ALGORITHMS[name].label for name in missing)
                title += f"\nno finished runs yet: {labels}"
            panels[title] = {
                figure4.label(best[0]): [run.directory for run in best] for best in found.values()
            }
            lengths[title] = max(best[0].wanted for best in found.values())
            if task in ("hopper", "walker"):
                with_length.append(title)
    if panels:
        plots.learning_curves(
            panels,
            path,
            y="reward_per_step",
            lengths=lengths,
            with_episode_length=with_length,
            columns=4,
        )
    return bool(panels)


def table(verdicts: Mapping[str, Verdict]) -> str:
    """Returns the verdicts as a Markdown table, and what each is judged by."""
    rows = (
        (name, statement(name), verdict.estimate, f"**{verdict.verdict}**")
        for name, verdict in verdicts.items()
    )
    lines = tables.markdown(("claim", "", "estimate", "verdict"), rows)
    criteria = tables.markdown(
        ("claim", "judged by"), ((name, criterion(name)) for name in verdicts)
    )
    return "\n".join([*lines, "", CRITERIA, "", *criteria]) + "\n"


def statement(name: str) -> str:
    """Returns a claim in words."""
    return _documentation(name)[0].partition(": ")[2]


def criterion(name: str) -> str:
    """Returns how a claim is judged, in words."""
    return " ".join(line for line in _documentation(name)[1:] if line)


def _documentation(name: str) -> list[str]:
    return inspect.cleandoc(CLAIMS[name].__doc__ or "").splitlines()


def main(_):
    results = Results(pathlib.Path(RESULTS.value), listing.BUDGET.value)
    if not results.directory.is_dir():
        cli.refuse(f"--results={results.directory} is no directory")
    with cli.refused_errors():
        verdicts = judge(results)
    for name, verdict in verdicts.items():
        print(f"{name:4} {verdict.verdict:15} {statement(name)}\n     {verdict.estimate}")
    files.write_text(results.directory / "claims.md", table(verdicts))
    print(results.directory / "claims.md")


if __name__ == "__main__":
    cli.run(main)
