"""Regenerates every figure and table of the theory, exactly, in 1 to 3 minutes.

python experiments/theory.py --out=results/theory
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tqdm
from absl import flags
from matplotlib import figure, ticker

from trpo_repro import files
from trpo_repro.analysis import tables
from trpo_repro.commands import cli
from trpo_repro.theory import bounds, mdp, natural_gradient, verification
from trpo_repro.theory import policy_iteration as pi

flags.declare_key_flag("out")
PAIRS = flags.DEFINE_integer(
    "pairs", 2000, "Random pairs of policies that bounds are checked on.", lower_bound=1
)
ITERATIONS = flags.DEFINE_integer(
    "theory_iterations", 300, "Updates in the figures of returns.", lower_bound=2
)

KL_LIMIT = 0.01
PATH_LENGTH = 1000  # Table 2
UPDATES: dict[str, Callable[[], pi.Update]] = {
    "policy iteration": lambda: pi.greedy,
    "conservative policy iteration (eq. 5)": lambda: pi.conservative,
    "Algorithm 1 (eq. 10)": lambda: pi.algorithm_1,
    "TRPO, max KL (eq. 11)": lambda: pi.max_kl_trpo(KL_LIMIT),
    "TRPO, mean KL (eq. 12)": lambda: pi.mean_kl_trpo(KL_LIMIT),
    "fixed multiplier of the KL": lambda: pi.fixed_multiplier(1.0),
    "multiplier by dual ascent": lambda: pi.DualAscent(KL_LIMIT),
    "natural gradient": lambda: pi.gradient_flow(0.1, natural=True),
    "policy gradient": lambda: pi.gradient_flow(0.1, natural=False),
}
PROCESSES: dict[str, Callable[[], mdp.FiniteMDP]] = {
    "random process, γ = 0.9": functools.partial(mdp.random_mdp, 0, 10, 4, 0.9),
    "grid world, γ = 0.9": mdp.grid_world,
    "chain, γ = 0.95": mdp.chain,
}


def curves() -> Iterator[tuple[str, str, list[pi.Point]]]:
    """Yields (process, method, points) for every process and update rule."""
    for process_name, make in PROCESSES.items():
        process = make()
        uniform = np.full(process.rewards.shape, 1 / process.actions)
        for method, update in UPDATES.items():
            yield (
                process_name,
                method,
                list(pi.run(process, uniform, update(), ITERATIONS.value)),
            )


def draw_returns(rows: list[tuple[str, str, list[pi.Point]]], path: pathlib.Path) -> None:
    """Draws η against updates, and below it the max KL of each update."""
    canvas = figure.Figure(figsize=(13, 7.5), layout="constrained")
    axes = canvas.subplots(2, len(PROCESSES), sharex=True)
    for column, process in enumerate(PROCESSES):
        for i, method in enumerate(UPDATES):
            points = next(p for name, kind, p in rows if (name, kind) == (process, method))
            dashes = "--" if method.startswith("Algorithm") else "-"
            style = {"color": f"C{i}", "label": method, "linewidth": 1.5, "linestyle": dashes}
            axes[0, column].plot([point.expected_return for point in points], **style)
            kl = np.array([point.max_kl for point in points[1:]])
            kl[~np.isfinite(kl) | (kl < 1e-13)] = np.nan
            axes[1, column].plot(np.arange(1, len(points)), kl, **style)
        axes[0, column].set(title=process, ylabel="expected discounted return η")
        axes[1, column].set(
            xlabel="updates (log scale)", ylabel="max KL of the update (nats)", yscale="log"
        )
        axes[1, column].axhline(KL_LIMIT, color="black", linewidth=0.8, linestyle=":")
        for row in range(2):
            axes[row, column].set_xscale("symlog", linthresh=1)
            axes[row, column].grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize="small")
    canvas.savefig(path, dpi=130)


def draw_tightness(tightness: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Draws how much of each bound's allowance the random pairs used."""
    canvas = figure.Figure(figsize=(7, 4.2), layout="constrained")
    axes = canvas.subplots()
    for i, (name, used) in enumerate(tightness.items()):
        ordered = np.sort(np.maximum(used, 1e-12))
        shares = np.arange(1, len(ordered) + 1) / len(ordered)
        axes.step(ordered, shares, color=f"C{i}", label=f"{name}: at most {ordered[-1]:.3g}")
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set(
        xscale="log",
        xlim=(1e-10, 2),
        xlabel="used / allowed by the bound (1: tight; above 1: violated)",
        ylabel="share of random pairs below",
        title=f"Tightness of the bounds over {len(next(iter(tightness.values())))} pairs",
    )
    axes.legend(fontsize="small", loc="upper left")
    axes.grid(alpha=0.3)
    canvas.savefig(path, dpi=150)


def draw_fields(path: pathlib.Path) -> None:
    """Draws both gradient fields over (k, σ), and both ascents from one start.

    Once with states that scatter from the start, and once with all at 0, where noise alone excites
    them: there the gradient's slope ∂σ/∂k grows as 1 / σ.
    """
    cases = {"s₀ ~ N(0, 1)": 1.0, "s₀ = 0": 0.0}
    k, sigma = np.meshgrid(np.linspace(-1.6, 0.05, 18), np.linspace(0.08, 1.0, 14))
    grid = np.stack([k, sigma], axis=-1)
    start = np.array([-0.1, 0.9])
    canvas = figure.Figure(figsize=(10, 8), layout="constrained")
    grids = canvas.subplots(2, 2, sharex=True, sharey=True)
    fine = np.stack(np.meshgrid(np.linspace(-1.65, 0.08, 80), np.linspace(0.02, 1.05, 60)), -1)
    panels = ((case, natural) for case in cases for natural in (False, True))
    for axes, (case, natural) in zip(grids.flat, panels, strict=True):
        problem = natural_gradient.LinearGaussian(initial_variance=cases[case])
        field = problem.natural_gradient(grid) if natural else problem.gradient(grid)
        field = field / np.linalg.norm(field, axis=-1, keepdims=True)
        axes.contour(
            fine[..., 0],
            fine[..., 1],
            problem.expected_return(fine),
            25,
            cmap="Greys",
            linewidths=0.7,
        )
        axes.quiver(k, sigma, field[..., 0], field[..., 1], color="C0", width=0.003, scale=30)
        path_of = natural_gradient.ascend(problem, start, 0.02, 150, natural=natural)
        name = "natural gradient" if natural else "gradient"
        axes.plot(path_of[:, 0], path_of[:, 1], color="C3", label="ascent, 150 steps of one length")
        axes.plot(*start, "o", color="C3")
        axes.set(title=f"{name} field, {case}", xlim=(-1.65, 0.08), ylim=(0.0, 1.05))
        axes.label_outer()
    for axes in grids[:, 0]:
        axes.set_ylabel("exploration σ")
    for axes in grids[1]:
        axes.set_xlabel("feedback gain k")
    grids[0, 0].legend(loc="lower left", fontsize="small")
    canvas.supxlabel("arrows: direction only; gray: contours of η", fontsize=8)
    canvas.savefig(path, dpi=150)


def draw_constraints(path: pathlib.Path) -> None:
    """Draws the Euclidean ball and the KL ball of a step, with the best step in each."""
    problem, at = natural_gradient.LinearGaussian(), np.array([-0.3, 0.4])
    gradient, fisher = problem.gradient(at), problem.fisher(at)
    kl_limit = 0.01
    steps = {
        "KL ≤ δ: natural gradient": natural_gradient.kl_step(gradient, fisher, kl_limit),
    }
    radius = float(np.linalg.norm(steps["KL ≤ δ: natural gradient"]))
    steps["‖step‖ ≤ r: gradient"] = natural_gradient.euclidean_step(gradient, radius)
    angle = np.linspace(0, 2 * np.pi, 200)
    unit = np.stack([np.cos(angle), np.sin(angle)])
    ellipse = np.linalg.inv(np.linalg.cholesky(fisher)).T @ unit * np.sqrt(2 * kl_limit)
    canvas = figure.Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = canvas.subplots()
    shapes = ((*ellipse, "C0"), (*(radius * unit), "C3"))
    for (x, y, color), (name, step) in zip(shapes, steps.items(), strict=True):
        axes.plot(at[0] + x, at[1] + y, color=color, label=name)
        axes.annotate(
            "",
            tuple(at + step),
            tuple(at),
            arrowprops={"arrowstyle": "->", "color": color, "linewidth": 2},
        )
    axes.set(
        aspect="equal",
        xlabel="feedback gain k",
        ylabel="exploration σ",
        title=f"The best step in two balls, δ = {kl_limit}",
    )
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.3), fontsize="small", ncols=2)
    axes.grid(alpha=0.3)
    canvas.savefig(path, dpi=150)


def write_violations(rows: dict[str, tuple[str, float]], directory: pathlib.Path) -> None:
    """Writes the table equation → largest numerical violation, as CSV and Markdown."""
    columns = ("equation", "statement", "largest_violation")
    cells = [(name, *values) for name, values in rows.items()]
    text = tables.csv_text(columns, (dict(zip(columns, line, strict=True)) for line in cells))
    files.write_text(directory / "violations.csv", text)
    head = [column.replace("_", " ") for column in columns]
    lines = tables.markdown(head, ((*line[:2], f"{line[2]:.1e}") for line in cells))
    files.write_text(directory / "violations.md", "\n".join(lines) + "\n")
    for name, statement, violation in cells:
        print(f"{name:22} {violation:9.1e}  {statement}")


def write_state_weighting(directory: pathlib.Path) -> None:
    """Writes the cosine of ∇η with the gradient that weighs states equally, as practice does."""
    generator = np.random.default_rng(0)
    columns = ("process", "policies", "least_cosine", "median_cosine", "largest_cosine")
    rows = []
    for name, make in PROCESSES.items():
        process = make()
        cosines = []
        for _ in range(200):
            logits = generator.standard_normal(process.rewards.shape)
            exact = bounds.surrogate_gradient(process, logits).ravel()
            equal = bounds.equally_weighted_gradient(process, logits, PATH_LENGTH).ravel()
            cosines.append(exact @ equal / np.linalg.norm(exact) / np.linalg.norm(equal))
        low, middle, high = np.quantile(cosines, (0.0, 0.5, 1.0))
        numbers = [f"{cosine:.3f}" for cosine in (low, middle, high)]
        values = (name.replace(",", ";"), len(cosines), *numbers)
        rows.append(dict(zip(columns, values, strict=True)))
        print(f"{name}: equal state weights, cosine with ∇η {low:.3f} to {high:.3f}")
    files.write_text(directory / "state_weighting.csv", tables.csv_text(columns, rows))


def write_claims(rows: list[tuple[str, str, list[pi.Point]]], path: pathlib.Path) -> None:
    """Writes what claims C8 and C11 rest on: step sizes and the least change of η."""
    record: dict[str, dict] = {}
    for process, method, points in rows:
        returns = np.array([point.expected_return for point in points])
        kl = np.array([point.max_kl for point in points[1:]])
        record.setdefault(process, {})[method] = {
            "least_change_of_return": float(np.diff(returns).min()),
            "first_max_kl": None if np.isinf(kl[0]) else float(kl[0]),
            "last_return": float(returns[-1]),
        }
    files.write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    for process, methods in record.items():
        first = methods["Algorithm 1 (eq. 10)"]["first_max_kl"]
        worst = methods["Algorithm 1 (eq. 10)"]["least_change_of_return"]
        print(
            f"{process}: Algorithm 1's first step has max KL {first:.2e} "
            f"(δ = {KL_LIMIT}); least change of η {worst:.1e}"
        )


def main(_):
    directory = cli.output_directory("results/theory")
    rows = list(tqdm.tqdm(curves(), total=len(PROCESSES) * len(UPDATES), desc="updates"))
    draw_returns(rows, directory / "returns.png")
    write_claims(rows, directory / "claims.json")
    violations, tightness = verification.verify(PAIRS.value)
    write_violations(violations, directory)
    write_state_weighting(directory)
    draw_tightness(tightness, directory / "bounds.png")
    draw_fields(directory / "gradient_fields.png")
    draw_constraints(directory / "constraints.png")
    for name, used in tightness.items():
        print(f"{name}: the tightest of {len(used)} pairs uses {used.max():.3g} of its allowance")


if __name__ == "__main__":
    cli.run(main)
