"""Cart-pole against Gymnasium's (frictionless, ±10 N) and against energy conservation."""

import gymnasium
import numpy as np
import pytest

from trpo_repro.environments import cartpole


def test_frictionless_dynamics_are_gymnasiums(monkeypatch):
    """Gymnasium's CartPole is the same paper's without friction and with |u| = 10 N always."""
    monkeypatch.setattr(cartpole, "CART_FRICTION", 0.0)
    monkeypatch.setattr(cartpole, "POLE_FRICTION", 0.0)
    environment = cartpole.CartPole()
    peer = gymnasium.make("CartPole-v1").unwrapped
    peer.reset(seed=0)
    generator = np.random.default_rng(0)
    states = environment.initial(1, generator)
    peer.state = states.simulator[0].copy()
    for _ in range(30):
        push = int(generator.integers(2))
        peer.step(push)
        states = environment.step(states, np.array([[2.0 * push - 1.0]])).states
        np.testing.assert_allclose(states.simulator[0], peer.state, rtol=1e-12, atol=1e-12)


def test_friction_opposes_motion():
    environment = cartpole.CartPole()
    states = environment.initial(2, np.random.default_rng(0))
    rolling = type(states)(np.array([[0, 1.0, 0, 0], [0, -1.0, 0, 0]]), states.elapsed)
    after = environment.step(rolling, np.zeros((2, 1))).states.simulator[:, 1]
    # Closed form at θ = θ̇ = 0: ẍ = −μ (1 + 0.75 m/M') / M' with the pole's reaction; a bound
    # on both sides suffices: the whole friction force on the bare cart, and on all the mass.
    slowing = np.abs(after - [1.0, -1.0]) / cartpole.TIME_STEP
    friction, mass = cartpole.CART_FRICTION, cartpole.CART_MASS
    assert (slowing <= friction / mass).all()
    assert (slowing >= friction / (mass + cartpole.POLE_MASS)).all()
    assert (np.abs(after) < 1.0).all()


def test_undriven_pole_conserves_energy(monkeypatch):
    """Independent of the equations of motion: E of the frictionless system drifts as O(Δt)."""
    monkeypatch.setattr(cartpole, "CART_FRICTION", 0.0)
    monkeypatch.setattr(cartpole, "POLE_FRICTION", 0.0)

    def drift(time_step):
        environment = cartpole.CartPole(time_step=time_step)
        states = environment.initial(1, np.random.default_rng(0))
        start = states.simulator
        for _ in range(round(0.2 / time_step)):
            states = environment.step(states, np.zeros((1, 1))).states
        return abs(_energy(states.simulator[0]) - _energy(start[0]))

    coarse, fine = drift(0.002), drift(0.0002)
    assert fine < 0.11 * coarse + 1e-12  # first order: a tenth of the step, a tenth of the drift


def _energy(state):
    _, x_dot, theta, theta_dot = state
    mass, half = cartpole.POLE_MASS, cartpole.POLE_HALF_LENGTH
    pole_x = x_dot + half * theta_dot * np.cos(theta)
    pole_y = -half * theta_dot * np.sin(theta)
    inertia = mass * half**2 / 3
    kinetic = 0.5 * cartpole.CART_MASS * x_dot**2 + 0.5 * mass * (pole_x**2 + pole_y**2)
    return kinetic + 0.5 * inertia * theta_dot**2 + mass * cartpole.GRAVITY * half * np.cos(theta)


def test_rewards_and_terminations():
    environment = cartpole.CartPole()
    simulator = np.array([[0, 0, 0, 0], [0, 0, 0.1, 0], [2.41, 0, 0, 0], [0, 0, -0.21, 0]], float)
    states = environment.initial(4, np.random.default_rng(0))
    states = type(states)(simulator, states.elapsed)
    step = environment.step(states, np.array([[0.0], [3.0], [0.0], [0.0]]))
    np.testing.assert_array_equal(step.terminated, [False, False, True, True])
    theta = step.states.simulator[1, 2]
    assert step.rewards[0] == pytest.approx(10.0, abs=1e-12)
    assert step.rewards[1] == pytest.approx(10 - (1 - np.cos(theta)) - 1e-5 * 10.0**2, abs=1e-12)
    np.testing.assert_array_equal(step.rewards[2:], 0.0)


def test_starts_within_a_twentieth_of_the_bounds():
    states = cartpole.CartPole().initial(1000, np.random.default_rng(0)).simulator
    assert np.abs(states[:, 0]).max() == pytest.approx(0.12, rel=0.05)
    assert np.abs(states[:, 2]).max() == pytest.approx(0.01, rel=0.05)
    np.testing.assert_array_equal(states[:, [1, 3]], 0.0)
