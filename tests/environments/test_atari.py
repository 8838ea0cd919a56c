"""Atari against Gymnasium's own wrappers, and what the paper and ALE say."""

import dataclasses
import pathlib
import subprocess
import sys

import ale_py
import gymnasium
import numpy as np
import pytest
from ale_py import env as ale_env
from gymnasium import wrappers

from trpo_repro import environments
from trpo_repro.environments import atari

ROOT = pathlib.Path(__file__).parent.parent.parent
TABLE_1 = ("beam_rider", "breakout", "enduro", "pong", "qbert", "seaquest", "space_invaders")

gymnasium.register_envs(ale_py)


def test_the_seven_games_of_table_1_are_there():
    assert set(TABLE_1) <= set(atari.games())
    assert set(TABLE_1) <= set(environments.task_names())


def _gymnasium(game, size):
    environment = gymnasium.make(
        f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=True
    )
    environment = wrappers.AtariPreprocessing(
        environment, noop_max=0, frame_skip=4, screen_size=size[::-1], scale_obs=False
    )
    return wrappers.FrameStackObservation(environment, 4)


@pytest.mark.parametrize(
    ("game", "screen"), [("Pong", "52x40"), ("Breakout", "84x84"), ("Seaquest", "52x40")]
)
def test_equals_gymnasiums_preprocessing(game, screen):
    """Frames to the bit, rewards and ends, over 300 decisions from Gymnasium's start."""
    environment = atari.Atari(game.lower(), screen=screen)
    theirs = _gymnasium(game, atari.SCREENS[screen])
    seen, _ = theirs.reset(seed=0)
    emulator = atari._objects([theirs.unwrapped.ale.cloneState(include_rng=True)])
    zero = np.zeros(1, np.int64)
    states = atari.AtariStates(emulator, zero, seen[None], zero, zero.astype(np.uint64))
    generator = np.random.default_rng(1)
    for _ in range(300):
        action = generator.integers([3, 3, 2])
        step = environment.step(states, action[None])
        button = ale_env.AtariEnv.map_action_idx(action[0] - 1, 1 - action[1], bool(action[2]))
        seen, reward, terminated, _, _ = theirs.step(button.value)
        states = step.states
        assert step.rewards[0] == reward
        assert step.terminated[0] == terminated
        if terminated:  # of what was on the screen then nobody sees anything
            break
        np.testing.assert_array_equal(environment.observe(states)[0], seen)


def test_an_episode_starts_with_copies_of_the_first_screen():
    environment = atari.Atari("pong")
    states = environment.initial(20, np.random.default_rng(0))
    frames = environment.observe(states)
    assert (frames == frames[:, :1]).all()
    emulator = environment._slots[0]
    for state, stack in zip(states.simulator, frames, strict=True):
        noops = state.getEpisodeFrameNumber() - environment._start.getEpisodeFrameNumber()
        emulator.restoreState(environment._start)
        for _ in range(noops):
            emulator.act(0)
        if noops == 0:  # a restored emulator has no screen before its next frame
            continue
        np.testing.assert_array_equal(environment._resize(emulator.getScreenGrayscale()), stack[0])


def test_actions():
    """The factors reach each of the 18 actions of the joystick once; the minimal set is ALE's."""
    environment = atari.Atari("breakout")
    assert sorted(environment._actions.ravel()) == list(range(18))
    assert environment._actions[1, 1, 0] == ale_py.Action.NOOP.value
    assert environment._actions[2, 0, 1] == ale_py.Action.UPRIGHTFIRE.value
    minimal = atari.Atari("breakout", action_set="minimal")
    assert minimal.action_space.n == 4
    assert [ale_py.Action(a).name for a in minimal._actions] == ["NOOP", "FIRE", "RIGHT", "LEFT"]


def test_random_noops_vary_the_start():
    environment = atari.Atari("pong")
    states = environment.initial(20, np.random.default_rng(0))
    numbers = {state.getEpisodeFrameNumber() for state in states.simulator}
    assert len(numbers) > 8
    assert max(numbers) - min(numbers) <= 30


def test_a_lost_life_ends_no_episode():
    """Breakout's five lives: the ball is served and dropped until the game is over."""
    environment = atari.Atari("breakout", action_set="minimal")
    states = environment.initial(1, np.random.default_rng(0))
    lives, emulator = [], environment._slots
    for t in range(1500):
        step = environment.step(states, np.array([t % 2]))  # FIRE and NOOP
        states = step.states
        lives.append(emulator[environment._held.index(states.simulator[0])].lives())
        if step.terminated[0]:
            break
        assert lives[-1] > 0
    assert step.terminated[0]
    assert set(lives) == {0, 1, 2, 3, 4, 5}


def test_sticky_frames_are_as_frequent_as_they_should_be():
    """With probability p a frame repeats the one before: of 4 × 25,000 alternating actions the
    fraction of first frames that repeat is p within four standard errors."""
    environment = atari.Atari("pong", sticky_probability=0.25)
    states = environment.initial(1, np.random.default_rng(0)).repeat(25_000)
    keys = np.random.default_rng(1).integers(2**63, size=25_000).astype(np.uint64)
    states = dataclasses.replace(states, keys=keys, buttons=np.full(25_000, 3))
    pressed = environment._pressed(states, np.tile([1, 1, 0], (25_000, 1)))
    assert set(np.unique(pressed)) == {0, 3}
    for k in range(4):  # still the old one after k + 1 repeats
        expected = 0.25 ** (k + 1)
        error = np.sqrt(expected * (1 - expected) / 25_000)
        assert abs((pressed[:, k] == 3).mean() - expected) < 4 * error


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_more_rows_than_emulators_change_nothing(sticky):
    few = atari.Atari("pong", sticky_probability=sticky, slots=2)
    many = atari.Atari("pong", sticky_probability=sticky, slots=6)
    ours, theirs = (e.initial(6, np.random.default_rng(0)) for e in (few, many))
    generator = np.random.default_rng(1)
    for _ in range(10):
        actions = generator.integers([3, 3, 2], size=(6, 3))
        ours, theirs = few.step(ours, actions).states, many.step(theirs, actions).states
        for name, array in ours.to_arrays().items():
            np.testing.assert_array_equal(array, theirs.to_arrays()[name], err_msg=name)


def test_sticky_actions_follow_the_states_random_numbers():
    """Equal states go on alike, and starts with other seeds do not."""
    environment = atari.Atari("breakout", sticky_probability=0.5)
    starts = environment.initial(2, np.random.default_rng(3))
    generator = np.random.default_rng(0)
    actions = [np.repeat(generator.integers([3, 3, 2])[None], 4, axis=0) for _ in range(40)]
    states = starts.repeat(2)
    for action in actions:
        states = environment.step(states, action).states
    emulators = states.to_arrays()["emulator"]
    np.testing.assert_array_equal(emulators[0], emulators[1])
    np.testing.assert_array_equal(emulators[2], emulators[3])
    assert (emulators[0] != emulators[2]).any()


_CONTINUE = """
import sys
import numpy as np
from trpo_repro.environments import atari

arrays = dict(np.load(sys.argv[1]))
environment = atari.Atari("seaquest", sticky_probability=float(sys.argv[3]))
states = atari.AtariStates.from_arrays(arrays)
generator = np.random.default_rng(5)
rewards = []
for _ in range(30):
    step = environment.step(states, generator.integers([3, 3, 2], size=(2, 3)))
    states = step.states
    rewards.append(step.rewards)
np.savez(sys.argv[2], rewards=np.array(rewards), **states.to_arrays())
"""


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_goes_on_bit_for_bit_in_another_process(tmp_path, sticky):
    environment = atari.Atari("seaquest", sticky_probability=sticky)
    states = environment.initial(2, np.random.default_rng(0))
    for _ in range(30):
        states = environment.step(states, np.ones((2, 3), int)).states
    np.savez(tmp_path / "in.npz", **states.to_arrays())
    files = [str(tmp_path / name) for name in ("in.npz", "out.npz")]
    command = [sys.executable, "-c", _CONTINUE, *files, str(sticky)]
    subprocess.run(command, check=True, cwd=ROOT)
    generator = np.random.default_rng(5)
    rewards = []
    for _ in range(30):
        step = environment.step(states, generator.integers([3, 3, 2], size=(2, 3)))
        states = step.states
        rewards.append(step.rewards)
    there = np.load(files[1])
    np.testing.assert_array_equal(there["rewards"], rewards)
    for name, array in states.to_arrays().items():
        np.testing.assert_array_equal(there[name], array, err_msg=name)


@pytest.mark.parametrize("game", TABLE_1)
def test_an_emulator_that_has_not_moved_goes_on_bit_for_bit(game):
    """What a saved state leaves out is the same in all emulators."""
    here = atari.Atari(game)
    generator = np.random.default_rng(0)
    states = here.initial(1, generator)
    for _ in range(10):
        states = here.step(states, generator.integers([3, 3, 2], size=(1, 3))).states
    there = atari.Atari(game)
    others = atari.AtariStates.from_arrays(states.to_arrays())
    for _ in range(30):
        actions = generator.integers([3, 3, 2], size=(1, 3))
        states, others = here.step(states, actions).states, there.step(others, actions).states
        for name, array in states.to_arrays().items():
            np.testing.assert_array_equal(array, others.to_arrays()[name], err_msg=name)


def test_an_interrupted_step_can_be_taken_again(monkeypatch):
    environment = atari.Atari("pong")
    states = environment.initial(2, np.random.default_rng(0))
    actions = np.array([[0, 1, 1], [2, 1, 0]])
    states = environment.step(states, actions).states  # the emulators hold these states
    after = atari.Atari("pong").step(states, actions).states.to_arrays()

    def interrupted(screen):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environment, "_resize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            environment.step(states, actions)
    for name, array in environment.step(states, actions).states.to_arrays().items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


@pytest.mark.parametrize("arguments", [("ponk",), ("pong", "9x9"), ("pong", "52x40", "all")])
def test_unknown_names_are_refused(arguments):
    settings = dict(zip(("screen", "action_set"), arguments[1:], strict=False))
    with pytest.raises(ValueError, match=r"unknown '.*'; known: "):
        atari.Atari(arguments[0], **settings)


def test_an_unbroken_path_restores_nothing():
    environment = atari.Atari("pong")
    states = environment.initial(3, np.random.default_rng(0))
    actions = np.ones((3, 3), int)
    states = environment.step(states, actions).states
    before = list(environment._held)
    slots = [environment._held.index(state) for state in states.simulator]
    assert environment._assign(states.simulator) == slots
    assert environment._held == before
