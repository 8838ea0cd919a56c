"""MuJoCo tasks against Gymnasium's own environments and MuJoCo's own functions."""

import dataclasses

import gymnasium
import mujoco
import numpy as np
import pytest

from trpo_repro import environments, presets, training
from trpo_repro.environments import mujoco as mujoco_environments
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path

GYMNASIUM_TASKS = [name for name in mujoco_environments.TASKS if name.endswith("-v5")]


@pytest.mark.parametrize("name", GYMNASIUM_TASKS)
def test_agrees_with_gymnasium_over_whole_episodes(name):
    """The same substeps from the same bits, warm start included: only summation order differs.

    1e-12 allows for a different order of the reward's few terms; the states are equal to the
    bit, so nothing accumulates, through contacts too.
    """
    environment = environments.make(name, threads=2)
    peer = gymnasium.make(name)
    simulator = peer.unwrapped
    nq, nv = simulator.model.nq, simulator.model.nv
    assert environment.action_space == peer.action_space
    assert environment.observation_space == peer.observation_space
    assert environment.max_episode_steps == peer.spec.max_episode_steps
    generator = np.random.default_rng(0)
    for scale in (0.1, 0.5, 1.0, 2.0):  # quiet episodes last; loud actions leave the bounds
        states = environment.initial(1, generator)
        peer.reset()
        mujoco.mj_resetData(simulator.model, simulator.data)
        simulator.set_state(states.simulator[0, :nq], states.simulator[0, nq : nq + nv])
        for t in range(1000):
            action = scale * generator.standard_normal(simulator.model.nu)
            observation, reward, terminated, truncated, _ = peer.step(action)
            step = environment.step(states, action[None])
            states = step.states
            np.testing.assert_array_equal(environment.observe(states)[0], observation)
            assert step.rewards[0] == pytest.approx(reward, abs=1e-12)
            assert bool(step.terminated[0]) == terminated, t
            assert bool(step.truncated[0]) == (truncated and not terminated), t
            if terminated:
                break


@pytest.mark.parametrize("name", GYMNASIUM_TASKS)
def test_initial_states_are_distributed_as_gymnasiums(name):
    """Means and deviations of 400 resets agree within 5 standard errors."""
    environment = environments.make(name, threads=2)
    peer = gymnasium.make(name)
    count = 400
    theirs = np.stack([peer.reset(seed=seed)[0] for seed in range(count)])
    ours = environment.observe(environment.initial(count, np.random.default_rng(0)))
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / count) + 1e-12
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error).all()
    # The deviation of a deviation is at most σ / sqrt(2 n) for these light-tailed laws.
    spread = 5 * theirs.std(axis=0) / np.sqrt(count) + 1e-12
    assert (np.abs(ours.std(axis=0) - theirs.std(axis=0)) < spread).all()


@pytest.mark.parametrize(("name", "size"), [("swimmer", 10), ("hopper", 12), ("walker", 18)])
def test_paper_tasks_observe_all_positions_and_velocities(name, size):
    environment = environments.make(name)
    assert environment.observation_space.shape == (size,)
    states = environment.initial(3, np.random.default_rng(0))
    moved = states.simulator.copy()
    moved[:, 0] += 1.0
    shifted = environment.observe(type(states)(moved, states.elapsed))
    np.testing.assert_allclose(shifted[:, 0], environment.observe(states)[:, 0] + 1.0)


def _center_of_mass(environment, states):
    """MuJoCo's own: of the whole body, from the masses and positions of its links."""
    data = mujoco.MjData(environment.model)
    centers = []
    for simulator in states.simulator:
        data.qpos = simulator[: environment.model.nq]
        mujoco.mj_kinematics(environment.model, data)
        mujoco.mj_comPos(environment.model, data)
        centers.append(data.subtree_com[1, 0])
    return np.array(centers)


def _root_joint(environment, states):
    del environment
    return states.simulator[:, 0]


@pytest.mark.parametrize(
    ("name", "bonus", "position"),
    [
        ("swimmer", 0.0, _center_of_mass),
        ("swimmer_root_joint", 0.0, _root_joint),
        ("hopper", 1.0, _root_joint),
    ],
)
def test_paper_reward_is_velocity_less_control_cost_of_the_clipped_control(name, bonus, position):
    environment = environments.make(name)
    states = environment.initial(4, np.random.default_rng(0))
    actions = np.array([0.0, 0.5, 1.0, 7.0])[:, None] * np.ones(environment.action_space.shape)
    step = environment.step(states, actions)
    distance = position(environment, step.states) - position(environment, states)
    x_velocity = distance / environment.seconds_per_step
    cost = 1e-5 * (np.minimum(actions, 1.0) ** 2).sum(axis=1)
    np.testing.assert_allclose(step.rewards, x_velocity + bonus - cost, atol=1e-12)


def test_swimmers_center_of_mass_in_any_pose():
    """The closed form against MuJoCo's kinematics, at angles far from the start."""
    environment = environments.make("swimmer")
    generator = np.random.default_rng(0)
    states = environment.states_at(
        generator.uniform(-3, 3, (50, 5)), generator.standard_normal((50, 5))
    )
    np.testing.assert_allclose(
        mujoco_environments.swimmer_center_of_mass(states.simulator[:, :5]),
        _center_of_mass(environment, states),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("name", "preset"),
    [("hopper", "paper"), ("walker", "paper")]
    + [(f"{name}-v5", "gae") for name in ("Hopper", "Walker2d", "InvertedPendulum")]
    + [("InvertedDoublePendulum-v5", "gae"), ("cartpole", "paper")],
)
def test_the_alive_bonus_exceeds_the_costs(name, preset):
    """Progress aside, an untrained policy's steps earn more than an end, which earns nothing.

    Progress is left out: an untrained walker falls backward at a meter per second, and so earns
    −0.15 a step, and 0.03 ± 0.004 in Gymnasium's own Walker2d-v5, which has no impact cost.
    """
    environment = environments.make(name)
    if isinstance(getattr(environment, "task", None), mujoco_environments.Task):
        reward = environment.task.reward
        if isinstance(reward, mujoco_environments.Locomotion):
            standing = dataclasses.replace(reward, forward_weight=0.0)
            environment.task = dataclasses.replace(environment.task, reward=standing)
    policy = training.make_policy(presets.preset(preset, name), environment)
    paths, *_ = single_path.sample_trajectories(
        environment,
        policy,
        policy.network.initial_parameters(),
        Key(0),
        steps=200,
        states=50,
    )
    live = paths.rewards[~paths.terminated]
    assert live.mean() > 5 * live.std() / np.sqrt(live.size)


def test_walker_pays_for_the_net_contact_force_on_each_foot():
    """The sensors' forces equal the sum of mj_contactForce over a foot's contacts."""
    environment = environments.make("walker")
    model = environment.model
    data = mujoco.MjData(model)
    states = environment.initial(1, np.random.default_rng(0))
    nq, nv = model.nq, model.nv
    feet = [model.geom(name).id for name in environment.task.feet]
    largest = 0.0
    for _ in range(60):
        before = states
        step = environment.step(states, np.zeros((1, 6)))
        states = step.states
        data.qpos, data.qvel = before.simulator[0, :nq], before.simulator[0, nq : nq + nv]
        data.qacc_warmstart = before.simulator[0, nq + nv : nq + 2 * nv]
        data.ctrl = 0.0
        mujoco.mj_step(model, data, nstep=3)
        mujoco.mj_forward(model, data)  # forces at the last substep's beginning
        squared = 0.0
        for foot in feet:
            force = np.zeros(3)
            for i, contact in enumerate(data.contact):
                if foot in contact.geom:
                    wrench = np.zeros(6)
                    mujoco.mj_contactForce(model, data, i, wrench)
                    sign = 1.0 if contact.geom[1] == foot else -1.0
                    force += sign * contact.frame.reshape(3, 3).T @ wrench[:3]
            squared += force @ force
        velocity = (states.simulator[0, 0] - before.simulator[0, 0]) / environment.seconds_per_step
        alive = 0.0 if step.terminated[0] else 1.0
        # Forces reach 1e3 N, the warm starts of the two routes differ: 1e-6 relative.
        expected = velocity + alive - 5e-7 * squared
        assert step.rewards[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)
        largest = max(largest, squared)
    assert largest > 1e4  # the feet did hit the ground


def test_walkers_impact_cost_is_capped():
    environment = environments.make("walker")
    count = 2
    transition = mujoco_environments.Transition(
        qpos_before=np.zeros((count, 9)),
        qpos=np.tile([0.0, 1.25, *[0.0] * 7], (count, 1)),
        qvel=np.zeros((count, 9)),
        actions=np.zeros((count, 6)),
        controls=np.zeros((count, 6)),
        outputs={"sensordata": np.array([[3e3, *[0.0] * 5], [3e3, 0, 4e3, 0, 0, 0]])},
        seconds=0.008,
    )
    rewards, healthy = environment.task.reward(transition)
    assert healthy.all()
    np.testing.assert_allclose(rewards, [1 - 4.5, 1 - 10.0])


def test_walker_dynamics_are_those_of_walker2d_v5():
    """Added sensors observe and do not act."""
    ours, plain = environments.make("walker"), environments.make("Walker2d-v5")
    states = ours.initial(4, np.random.default_rng(0))
    for t in range(50):
        actions = np.random.default_rng(t).uniform(-1, 1, (4, 6))
        first, second = ours.step(states, actions), plain.step(states, actions)
        np.testing.assert_array_equal(first.states.simulator, second.states.simulator)
        states = first.states


def test_thread_count_does_not_change_a_bit():
    generator = np.random.default_rng(0)
    one, two = (environments.make("Hopper-v5", threads=n) for n in (1, 2))
    states = one.initial(64, generator)
    for _ in range(20):
        actions = generator.standard_normal((64, 3))
        first, second = one.step(states, actions), two.step(states, actions)
        np.testing.assert_array_equal(first.states.simulator, second.states.simulator)
        states = first.states
