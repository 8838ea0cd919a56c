"""Gymnasium's environments behind our protocol, against Gymnasium's own loop."""

import dataclasses
import gc
import multiprocessing

import gymnasium
import numpy as np
import pytest

from trpo_repro import environments, runs, training
from trpo_repro.config import Config
from trpo_repro.environments import adaptor

CLASSIC = ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0")
NAMES = (*CLASSIC, "toys:Walk-v0")
STEPS = 60


def _actions(environment, size, generator):
    space = environment.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        return generator.integers(space.n, size=size)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return generator.integers(space.nvec, size=(size, len(space.nvec)))
    return 3.0 * generator.standard_normal((size, int(np.prod(space.shape))))


def _play(environment, states, generator, steps=STEPS):
    """Returns all that `steps` steps with restarts answer."""
    found = []
    for _ in range(steps):
        observations = environment.observe(states)
        step = environment.step(states, _actions(environment, len(states), generator))
        ended = np.flatnonzero(step.terminated | step.truncated)
        states = step.states
        if len(ended):
            states = states.replace_at(ended, environment.initial(len(ended), generator))
        found.append((observations, step.rewards, step.terminated, step.truncated))
    return [np.array(column) for column in zip(*found, strict=True)]


def _gymnasiums_own(name, generator, size, steps=STEPS):
    """The same by Gymnasium's reset and step, one environment after another at every step."""
    all_of_them = [gymnasium.make(name) for _ in range(size)]
    if name == "toys:Walk-v0":
        all_of_them = [gymnasium.wrappers.FlattenObservation(one) for one in all_of_them]
    observed = [
        one.reset(seed=int(seed))[0]
        for one, seed in zip(all_of_them, generator.integers(2**31, size=size), strict=True)
    ]
    found = []
    for _ in range(steps):
        actions = _actions(all_of_them[0], size, generator)
        before, answers = np.array(observed), []
        for one, action in zip(all_of_them, actions, strict=True):
            if isinstance(one.action_space, gymnasium.spaces.Box):
                action = np.clip(action, one.action_space.low, one.action_space.high)
                action = action.astype(np.float32)
            answers.append(one.step(action))
        observed = [answer[0] for answer in answers]
        ended = [i for i, answer in enumerate(answers) if answer[2] or answer[3]]
        if ended:
            for i, seed in zip(ended, generator.integers(2**31, size=len(ended)), strict=True):
                observed[i] = all_of_them[i].reset(seed=int(seed))[0]
        rewards, terminated, truncated = (np.array([a[k] for a in answers]) for k in (1, 2, 3))
        found.append((before, rewards, terminated, truncated & ~terminated))
    return [np.array(column) for column in zip(*found, strict=True)]


@pytest.mark.parametrize("copies", [False, True], ids=["in place", "copied"])
@pytest.mark.parametrize("name", NAMES)
def test_equals_gymnasiums_own_loop_bit_for_bit(name, copies):
    environment = environments.make(name, copies=copies)
    generator = np.random.default_rng(3)
    ours = _play(environment, environment.initial(4, generator), generator)
    theirs = _gymnasiums_own(name, np.random.default_rng(3), 4)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_processes_change_no_number():
    found = []
    for processes in (False, True):
        environment = environments.make("Pendulum-v1", env_processes=processes)
        generator = np.random.default_rng(3)
        found.append(_play(environment, environment.initial(2, generator), generator, 210))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_evaluations_and_films_make_no_processes(tmp_path):
    """They play a hundred episodes at a time."""
    config = Config(
        task="CartPole-v1",
        env_processes=True,
        steps_per_iteration=20,
        path_length=10,
        iterations=1,
        fresh_paths=False,
    )
    runs.run(config, tmp_path, evaluate_at=[1])
    assert len(multiprocessing.active_children()) <= 2  # of the two paths that were trained on
    _, environment, policy = runs.load(tmp_path)
    assert policy.play(environment, episodes=3, seed=1).returns.all()
    assert len(multiprocessing.active_children()) <= 2
    drawn = runs.load(tmp_path, drawn=True).environment
    states = drawn.initial(2, np.random.default_rng(0))
    assert drawn.render(states).ndim == 4


def test_a_class_that_cannot_be_made_is_one_line():
    with pytest.raises(ValueError, match=r"task toys\.Broken: .* missing 1 required positional"):
        environments.make("toys.Broken")


def test_a_process_that_has_ended_is_one_line():
    environment = environments.make("CartPole-v1", env_processes=True)
    states = environment.initial(2, np.random.default_rng(0))
    process = states.simulator[1].environment.processes[0]
    process.kill()
    process.join()
    with pytest.raises(ChildProcessError, match="a process of CartPole-v1 has ended"):
        environment.step(states, np.zeros(2, int))


@pytest.mark.parametrize("name", NAMES)
def test_a_copied_state_is_a_value(name):
    """Stepped twice it has one future, which neither its copies nor its neighbors touch."""
    environment = environments.make(name, copies=True)
    assert environment.can_restore
    generator = np.random.default_rng(0)
    states = environment.initial(3, generator)
    for _ in range(5):
        states = environment.step(states, _actions(environment, 3, generator)).states
    before = environment.observe(states).copy()
    actions = _actions(environment, 6, generator)
    futures = [environment.step(states.repeat(2), actions) for _ in range(2)]
    np.testing.assert_array_equal(environment.observe(states), before)
    for field in ("rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(futures[0], field), getattr(futures[1], field))
    alone = environment.step(states.select(np.array([2])), actions[4:5])
    np.testing.assert_array_equal(
        environment.observe(alone.states)[0], environment.observe(futures[0].states)[4]
    )
    same = environment.step(states.repeat(2), np.repeat(actions[:3], 2, axis=0))
    np.testing.assert_array_equal(same.rewards[0::2], same.rewards[1::2])


def test_a_state_in_place_is_used_up():
    environment = environments.make("CartPole-v1")
    states = environment.initial(2, np.random.default_rng(0))
    environment.step(states, np.zeros(2, int))
    with pytest.raises(ValueError, match="was stepped twice: it cannot be restored"):
        environment.step(states, np.zeros(2, int))


def test_environments_of_dropped_states_are_used_again():
    environment = environments.make("CartPole-v1")
    made = set()
    for i in range(5):
        states = environment.initial(3, np.random.default_rng(i))
        made |= {id(live.environment) for live in states.simulator}
        states = environment.step(states, np.zeros(3, int)).states
        del states
        gc.collect()
    assert len(made) == 3


@pytest.mark.parametrize("fault", ["shares", "raises"])
def test_what_does_not_copy_is_refused_for_vine(fault):
    with pytest.raises(ValueError, match=r"cannot restore its states: copy\.deepcopy does not"):
        environments.make("toys:Broken-v0", env_kwargs={"fault": fault}, copies=True)


def test_faults_are_one_line(caplog):
    with pytest.raises(ValueError, match="Endless-v0 has no time limit; give one with --env_kw"):
        environments.make("toys:Endless-v0")
    environment = environments.make("toys:Endless-v0", env_kwargs={"max_episode_steps": 7})
    assert environment.max_episode_steps == 7
    environment = environments.make("toys:Broken-v0", env_kwargs={"fault": "shape"})
    with pytest.raises(ValueError, match=r"observes an array of shape \(2,\); its observation_sp"):
        environment.initial(1, np.random.default_rng(0))
    environments.make("toys:Broken-v0", env_kwargs={"fault": "seed"})
    assert "does not obey reset(seed=...)" in caplog.text
    with pytest.raises(ValueError, match=r"cannot be made: .*unexpected keyword argument 'zzz'"):
        environments.make("CartPole-v1", env_kwargs={"zzz": 1})
    with pytest.raises(ValueError, match="images of 8x8 pixels: must be at least 10x10"):
        environments.make("toys:Image-v0", env_kwargs={"side": 8})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "Nope-v0"}, "unknown task 'Nope-v0'; known: cartpole"),
        ({"task": "no_such_module:A-v0"}, "No module named 'no_such_module'"),
        ({"task": "no_such_module.A"}, "task no_such_module.A: No module named 'no_such_module'"),
        ({"task": "toys.Lost"}, "task toys.Lost: AttributeError: module 'toys' has no attribute"),
        ({"task": "toys.np"}, "task toys.np is not allowed: must be a class of environments"),
        ({"workers": 1}, "workers=1 is not allowed: must be 0 for tasks that are not built in"),
        ({"env_kwargs": "{"}, "env_kwargs={ is not allowed: must be JSON"),
        ({"env_kwargs": "[]"}, "must be a JSON object"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**{"task": "CartPole-v1", **changes})


SMALL = Config(
    task="CartPole-v1",
    seed=1,
    iterations=3,
    steps_per_iteration=400,
    path_length=100,
    hidden_sizes=(8,),
)


def _states(config):
    trainer = training.Trainer(config)
    return [(state, row) for state, row in training.iterations(trainer, trainer.initial_state())]


@pytest.mark.parametrize(
    "task", ["Pendulum-v1", "toys:Walk-v0", pytest.param("CartPole-v1", marks=pytest.mark.slow)]
)
def test_trains_and_repeats_itself(task):
    config = dataclasses.replace(SMALL, task=task)
    first, second = _states(config), _states(config)
    for (one, row), (other, _) in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.theta, other.theta)
        assert row["outcome"] != "not_finite"


def test_vine_trains():
    """With branches so long that poles fall in some: Q-values that are all equal say nothing."""
    config = dataclasses.replace(
        SMALL, sampler="vine", trunks=4, rollout_states=20, rollouts_per_state=2, rollout_length=30
    )
    assert [row["outcome"] for _, row in _states(config)] == ["accepted"] * 3


@pytest.mark.parametrize("channels", [3, pytest.param(0, marks=pytest.mark.slow)])
def test_images_are_learned_from(channels):
    """The bright side decides the better action: from 0.5 a step to above 0.8 in 15 iterations."""
    config = dataclasses.replace(
        SMALL,
        task="toys:Image-v0",
        env_kwargs=f'{{"channels": {channels}}}',
        iterations=15,
        discount=0.5,
    )
    rows = [row for _, row in _states(config)]
    assert rows[0]["reward_mean"] < 0.65
    assert rows[-1]["reward_mean"] > 0.8
    with pytest.raises(ValueError, match="baseline=linear is not allowed: must be none for images"):
        training.Trainer(dataclasses.replace(config, baseline="linear"))


def test_nan_refuses_the_update_and_training_continues():
    config = dataclasses.replace(
        SMALL, task="toys:Broken-v0", env_kwargs='{"fault": "nan"}', iterations=2
    )
    assert [row["outcome"] for _, row in _states(config)] == ["not_finite"] * 2


def test_fresh_paths_resume_bit_for_bit(tmp_path, new_trainers):
    runs.run(SMALL, tmp_path / "whole", resume=False)
    runs.run(dataclasses.replace(SMALL, iterations=2), tmp_path / "parts", resume=False)
    new_trainers()
    runs.run(SMALL, tmp_path / "parts", resume=True)
    states = [runs.load_state(tmp_path / name).to_arrays() for name in ("whole", "parts")]
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name], err_msg=name)


def test_continuing_paths_resume_with_new_episodes_and_say_so(tmp_path, caplog):
    config = dataclasses.replace(SMALL, fresh_paths=False)
    runs.run(dataclasses.replace(config, iterations=2), tmp_path, resume=False)
    assert "states of CartPole-v1 cannot be saved" in caplog.text
    state = runs.run(config, tmp_path, resume=True)
    assert state.iteration == 3
    assert runs.load_state(tmp_path).environment_states is None


def test_live_states_say_that_they_cannot_be_saved():
    assert not adaptor.LiveStates.can_save
    assert environments.EnvironmentStates.can_save
