"""Speed and memory as ratios within one run: `make bench`.

Each ratio compares two measurements alternated on this machine. With --peer_python, the
interpreter of a virtual environment that holds SB3-contrib, whole-iteration speed is compared
with its TRPO's, at the number of threads, one or all, at which that is faster.
"""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import ale_py
import mujoco
import numpy as np
from absl import flags
from mujoco import rollout as mujoco_rollout

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import config as config_lib
from trpo_repro import environments, presets, training
from trpo_repro.algorithms import policy_update
from trpo_repro.commands import cli
from trpo_repro.environments import mujoco as mujoco_environments
from trpo_repro.estimation import surrogates
from trpo_repro.randomness import Key
from trpo_repro.sampling import population, single_path, vine

PEER_PYTHON = flags.DEFINE_string(
    "peer_python", None, "Python of an environment with sb3-contrib; adds the comparison with it."
)
MEMORY_OF = flags.DEFINE_string(
    "memory_of", None, "TASK:STEPS: only run an iteration of so many steps and print peak bytes."
)
SECTION = flags.DEFINE_multi_enum(
    "section", ["mujoco", "atari"], ["mujoco", "atari"], "What to measure; repeatable."
)
TASKS = ("Hopper-v5", "Swimmer-v5", "Walker2d-v5")
PATHS = 1000
STEPS = 60
REPEATS = 3


def main(_):
    if MEMORY_OF.value:
        task, _, steps = MEMORY_OF.value.partition(":")
        known = task in mujoco_environments.TASKS or environments.is_atari(task)
        if not known or not steps.isdigit() or int(steps) < PATHS:
            cli.refuse(
                f"--memory_of={MEMORY_OF.value} is not allowed: must be TASK:STEPS, a task of "
                f"MuJoCo or an Atari game and at least {PATHS} steps"
            )
        with cli.refused_errors():
            print(_peak_memory(task, int(steps)))
        return
    peer = PEER_PYTHON.value
    if peer and not shutil.which(peer):
        cli.refuse(f"--peer_python={peer} is no program; `make peers` makes .venv-peers/bin/python")
    if peer and "mujoco" not in SECTION.value:
        cli.refuse("--peer_python is not allowed without --section=mujoco")
    if "mujoco" in SECTION.value:
        _mujoco()
    if "atari" in SECTION.value:
        _atari()


def _mujoco() -> None:
    for task in TASKS:
        _report(f"{task}: closed-loop sampling / open-loop mujoco.rollout", *_sampling(task), 0.85)
    for task in TASKS:
        name = f"{task}: population of 1000 / open-loop mujoco.rollout"
        _report(name, *_population(task), 0.85)
    _report("Hopper-v5: vine branches / open-loop mujoco.rollout", *_branches("Hopper-v5"), 0.85)
    _report("Fisher-vector product / gradient, 50K rows (seconds)", *_products(), 1.5, most=True)
    update, iteration = _update_share()
    _report("update / iteration, Hopper 50K steps (seconds)", update, iteration, 0.05, most=True)
    small, large = (_memory_in_new_process("hopper", steps) for steps in (100_000, 1_000_000))
    stored = 900_000 * _stored_bytes_per_step()
    print(
        f"peak memory, Hopper: {small / 2**30:.2f} GiB at 100K steps, {large / 2**30:.2f} GiB at "
        f"1M (limit 3); growth {(large - small) / 2**20:.0f} MiB, stored trajectories "
        f"{stored / 2**20:.0f} MiB"
    )
    if PEER_PYTHON.value:
        batches = dataclasses.replace(
            presets.preset("paper", "Hopper-v5"), steps_per_iteration=500_000, path_length=1000
        )
        for preset, config, iterations in (
            ("gae", presets.GAE, 40),
            ("paper, 500K steps", batches, 2),
        ):
            ours, theirs = _beside_peer(PEER_PYTHON.value, config, iterations)
            name = f"Hopper-v5 whole iterations ({preset}) / SB3-contrib TRPO"
            _report(f"{name} (steps per second)", ours, theirs, 6)


def _atari() -> None:
    for game in ("pong", "breakout", "seaquest"):
        ours, theirs = _atari_sampling(game)
        name = f"{game}: closed-loop sampling, 2 workers / open-loop AtariVectorEnv, 2 threads"
        _report(f"{name} (decisions per second)", ours, theirs, 0.75)
    branches, paths = _atari_branches()
    _report("pong: vine branches / single path (decisions per second)", branches, paths, 0.9)
    seconds, update = _atari_iteration()
    _report("pong: seconds of an iteration of 100K decisions / 1", seconds, 1, 45, most=True)
    print(f"pong: seconds of its update: {update:.1f}")
    peak = _memory_in_new_process("pong", 100_000)
    print(f"peak memory of the learner, pong, 100K decisions: {peak / 2**30:.2f} GiB (limit 3)")


def _report(name: str, ours: float, theirs: float, goal: float, *, most: bool = False) -> None:
    ratio = ours / theirs
    reached = ratio <= goal if most else ratio >= goal
    sign = "≤" if most else "≥"
    verdict = "reached" if reached else "MISSED"
    print(f"{name}: {ours:.5g} / {theirs:.5g} = {ratio:.3f} (goal {sign} {goal}: {verdict})")
    sys.stdout.flush()


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _alternated(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Returns median seconds of two functions, run in turns after one warm-up each."""
    first()
    second()
    pairs = [(_seconds(first), _seconds(second)) for _ in range(REPEATS)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def _sampling(task: str) -> tuple[float, float]:
    """Returns steps per second of single-path sampling, and of mujoco.rollout on the same work."""
    trainer, environment, theta = _random_policy(task)

    def sample(states):
        return single_path.sample_trajectories(
            environment, trainer.policy, theta, Key(0), steps=STEPS, states=states
        )

    _, start, _ = sample(PATHS)
    closed, opened = _against_open_loop(environment, lambda: sample(start))
    return PATHS * STEPS / closed, PATHS * STEPS / opened


def _population(task: str) -> tuple[float, float]:
    """Returns steps per second of 1000 policies' episodes of at most STEPS steps, and of
    mujoco.rollout on the same rows."""
    trainer, environment, theta = _random_policy(task)
    environment.max_episode_steps = STEPS
    thetas = np.repeat(theta[None], PATHS, axis=0)
    steps = 0

    def evaluate():
        nonlocal steps
        lengths = population.evaluate_population(
            environment, trainer.policy, thetas, Key(0)
        ).lengths
        steps = int(lengths.sum())

    closed, opened = _against_open_loop(environment, evaluate)
    return steps / closed, steps / opened


def _atari_config(game: str, **changes) -> config_lib.Config:
    return dataclasses.replace(presets.preset("paper", game), workers=2, **changes)


def _atari_sampling(game: str) -> tuple[float, float]:
    """Returns decisions per second of single-path sampling with 2 workers, and of ALE's own
    vector environment with random actions and 2 threads, at the same resolution."""
    config = _atari_config(game, steps_per_iteration=50_000, path_length=500)
    trainer = training.Trainer(config)
    state = trainer.initial_state()
    theirs = ale_py.AtariVectorEnv(
        game,
        config.parallel_paths,
        num_threads=2,
        img_height=52,
        img_width=40,
        full_action_space=True,
        reward_clipping=False,
        use_fire_reset=False,
    )
    theirs.reset(seed=0)
    actions = np.random.default_rng(0).integers(
        18, size=(config.path_length, config.parallel_paths)
    )

    def ours():
        nonlocal state
        tasks = trainer.sampler.shard_functions(None, Key(0, state.iteration), np.asarray)
        sample = trainer.sampler.join(trainer.workers.map(state.theta, tasks))
        state = dataclasses.replace(
            state, iteration=state.iteration + 1, environment_states=sample.after
        )

    def open_loop():
        for row in actions:
            theirs.step(row)

    closed, opened = _alternated(ours, open_loop)
    trainer.close()
    theirs.close()
    return config.steps_per_iteration / closed, config.steps_per_iteration / opened


def _atari_branches() -> tuple[float, float]:
    """Returns simulated decisions per second of the branches of 40 states, all 18 actions of each,
    and of 32 paths, in this process."""
    trainer = training.Trainer(dataclasses.replace(_atari_config("pong"), workers=0))
    environment, policy = trainer.environment, trainer.policy
    theta = policy.network.initial_parameters()
    generator = np.random.default_rng(0)
    starts = environment.initial(40, generator)
    actions = np.stack([policy.family.all_actions()] * 40)
    states = environment.initial(32, generator)
    steps = 0

    def branches():
        nonlocal steps
        steps = vine.branch_values(
            environment, policy, theta, Key(0), starts, actions, length=100, discount=0.99
        ).steps

    def paths():
        nonlocal states
        _, states, _ = single_path.sample_trajectories(
            environment, policy, theta, Key(0), steps=100, states=states
        )

    of_branches, of_paths = _alternated(branches, paths)
    return steps / of_branches, 3200 / of_paths


def _atari_iteration() -> tuple[float, float]:
    """Returns median seconds of an iteration of the paper preset on Pong, and of its update."""
    trainer = training.Trainer(_atari_config("pong", iterations=REPEATS + 1))
    rows = [row for _, row in training.iterations(trainer, trainer.initial_state())][1:]
    trainer.close()
    update = statistics.median(row["seconds_update"] for row in rows)
    return statistics.median(
        row["seconds_update"] + row["seconds_sampling"] for row in rows
    ), update


def _branches(task: str) -> tuple[float, float]:
    """Returns steps per second of 625 × 4 vine branches none of which ends, and of the same
    rows in mujoco.rollout."""
    trainer, environment, theta = _random_policy(task)
    states = environment.initial(625, np.random.default_rng(0))
    shape = (625, 4, *environment.action_space.shape)
    actions = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    length = 4  # steps from a start in which no hopper falls

    def branch():
        return vine.branch_values(
            environment,
            trainer.policy,
            theta,
            Key(0),
            states,
            actions,
            length=length,
            discount=0.99,
        )

    rows = 2500 * length
    steps = branch().steps
    assert steps == rows, "a branch ended: choose a shorter length"
    closed, opened = _against_open_loop(environment, branch)
    return rows / closed, rows / opened


def _random_policy(task: str):
    environment = environments.make(task)
    assert isinstance(environment, mujoco_environments.Mujoco)
    trainer = training.Trainer(presets.preset("paper", task), environment)
    return trainer, environment, trainer.policy.network.initial_parameters()


def _against_open_loop(
    environment: mujoco_environments.Mujoco, run: Callable[[], object]
) -> tuple[float, float]:
    """Returns median seconds of `run` and of mujoco.rollout on the steps that `run` takes.

    The open loop starts every step from the closed loop's own states, with its actions and
    thread count: the same physics, without policy, rewards, observations or resets.
    """
    model, step = environment.model, environment.step
    work = []

    def recorded(states, actions):
        physics = np.zeros(
            (len(states), mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS.value))
        )
        size = model.nq + model.nv
        physics[:, 1 : 1 + size] = states.simulator[:, :size]
        warmstart = np.ascontiguousarray(states.simulator[:, size : size + model.nv])
        control = np.asarray(actions, np.float64)[:, None]
        work.append((physics, np.repeat(control, environment.task.frame_skip, 1), warmstart))
        return step(states, actions)

    environment.step = recorded  # type: ignore[method-assign]
    run()
    environment.step = step  # type: ignore[method-assign]
    datas = [mujoco.MjData(model) for _ in range(environment.threads)]
    with mujoco_rollout.Rollout(nthread=environment.threads) as pool:

        def open_loop():
            for physics, controls, warmstart in work:
                pool.rollout(model, datas, physics, controls, initial_warmstart=warmstart)

        return _alternated(run, open_loop)


def _products() -> tuple[float, float]:
    """Returns seconds of a Fisher-vector product and of a gradient on 50K rows of Hopper."""
    import tensorflow as tf

    trainer, rows = _hopper_rows()
    theta = tf.constant(trainer.policy.network.initial_parameters())
    tensors = {name: tf.constant(array) for name, array in rows.items()}
    vector = tf.random.stateless_normal(theta.shape, [0, 0])

    def batch():
        return policy_update.ChunkedMeans(
            trainer.policy,
            surrogates.ImportanceSampled(),
            theta,
            tensors,
            None,
            {"observations": tensors["observations"]},
            policy_update.chunks.CHUNK_SIZE,
        )

    # Both graphs compute the old distributions first; the product prunes them away, so the
    # gradient's are subtracted.
    product = tf.function(lambda: batch().fisher_product(vector), autograph=False)
    gradient = tf.function(lambda: batch().gradient()[1], autograph=False)
    old = tf.function(lambda: batch().old_parameters, autograph=False)

    def many(function):
        return lambda: [function() for _ in range(20)]

    of_product, of_gradient = _alternated(many(product), many(gradient))
    of_old = statistics.median(_seconds(many(old)) for _ in range(REPEATS))
    return of_product / 20, (of_gradient - of_old) / 20


def _hopper_rows():
    trainer = training.Trainer(
        dataclasses.replace(presets.PAPER["hopper"], steps_per_iteration=50_000)
    )
    generator = np.random.default_rng(0)
    policy = trainer.policy
    observations = generator.standard_normal((50_000, 12)).astype(np.float32)
    theta = policy.network.initial_parameters()
    noise = policy.family.draw_noise(generator, (50_000,))
    rows = {
        "observations": observations,
        "actions": policy.sample(theta, observations, noise),
        "advantages": generator.standard_normal(50_000).astype(np.float32),
    }
    return trainer, rows


def _update_share() -> tuple[float, float]:
    """Returns median seconds of the update and of the whole iteration, Hopper `paper`, 50K."""
    config = dataclasses.replace(
        presets.PAPER["hopper"], steps_per_iteration=50_000, iterations=2 * REPEATS + 1
    )
    trainer = training.Trainer(config)
    rows = [row for _, row in training.iterations(trainer, trainer.initial_state())][1:]
    update = statistics.median(row["seconds_update"] for row in rows)
    return update, update + statistics.median(row["seconds_sampling"] for row in rows)


def _stored_bytes_per_step() -> int:
    """Returns the bytes of one step of Hopper's Trajectories and of the learner's rows."""
    observation, action = 12 * 4, 3 * 4
    trajectories = observation + action + 8 + 1 + 1 + 8
    # Advantages in float64 and float32, old distributions.
    return trajectories + 8 + 4 + 6 * 4


def _peak_memory(task: str, steps: int) -> int:
    """Returns this process's peak resident bytes after one iteration of a task."""
    config = presets.preset("paper", task)
    if environments.is_atari(task):
        config = _atari_config(task)
    trainer = training.Trainer(dataclasses.replace(config, steps_per_iteration=steps))
    trainer.iterate(trainer.initial_state())
    trainer.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _memory_in_new_process(task: str, steps: int) -> int:
    command = [sys.executable, __file__, f"--memory_of={task}:{steps}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _iterations_per_second(config: config_lib.Config, iterations: int) -> float:
    """Returns environment steps per second of whole iterations, after one of warm-up."""
    trainer = training.Trainer(dataclasses.replace(config, iterations=iterations + 1))
    steps = training.iterations(trainer, trainer.initial_state())
    next(steps)
    return iterations * config.steps_per_iteration / _seconds(lambda: list(steps))


def _beside_peer(python: str, config: config_lib.Config, iterations: int) -> tuple[float, float]:
    """Returns median steps per second of whole iterations, and of SB3-contrib's, in turns."""
    rounds = [
        (
            _iterations_per_second(config, iterations),
            _peer_steps_per_second(python, 1),
            _peer_steps_per_second(python, len(os.sched_getaffinity(0))),
        )
        for _ in range(REPEATS)
    ]
    ours, one_thread, all_threads = map(statistics.median, zip(*rounds, strict=True))
    return ours, max(one_thread, all_threads)


def _peer_steps_per_second(python: str, threads: int) -> float:
    script = pathlib.Path(__file__).with_name("peer.py")
    command = [python, str(script), "--task=Hopper-v5", f"--steps={10 * 2048}"]
    command.append(f"--threads={threads}")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        cli.refuse(f"{' '.join(command)} failed: {result.stderr.strip().splitlines()[-1]}")
    return json.loads(result.stdout)["steps_per_second"]


if __name__ == "__main__":
    cli.run(main)
