"""Cart-pole of Barto, Sutton and Anderson (1983) with a continuous force."""

import cv2
import gymnasium
import numpy as np

from trpo_repro.environments import base

GRAVITY = 9.8  # m/s²
CART_MASS = 1.0  # kg
POLE_MASS = 0.1  # kg
POLE_HALF_LENGTH = 0.5  # m
CART_FRICTION = 0.0005  # coefficient of the cart on the track
POLE_FRICTION = 0.000002  # coefficient of the pole's hinge
TIME_STEP = 0.02  # s
MAX_FORCE = 10.0  # N
MAX_POSITION = 2.4  # m
MAX_ANGLE = 0.2  # rad
START_FRACTION = 0.05  # initial position and angle lie within this fraction of their bounds


class CartPole(base.Environment):
    """Balances a pole on a cart; equations of motion of Barto, Sutton and Anderson (1983), App.

    The state is (x, ẋ, θ, θ̇), advanced by Euler's method with the old derivatives. The action
    is the horizontal force u in units of its limit, 10 N, and clipped to it. A step after which
    |x| ≤ 2.4 m and |θ| ≤ 0.2 rad pays 10 − (1 − cos θ) − 1e-5 u², u in newtons; otherwise the
    episode ends and the step pays 0.
    """

    name = "cartpole"
    max_episode_steps = 1000
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, max_episode_steps: int = max_episode_steps, time_step: float = TIME_STEP):
        self.max_episode_steps = max_episode_steps
        self._time_step = time_step

    def initial(self, batch_size, generator):
        bounds = START_FRACTION * np.array([MAX_POSITION, 0.0, MAX_ANGLE, 0.0])
        state = generator.uniform(-bounds, bounds, (batch_size, 4))
        return base.EnvironmentStates(state, np.zeros(batch_size, np.int64))

    def step(self, states, actions):
        x, x_dot, theta, theta_dot = states.simulator.T
        force = MAX_FORCE * np.clip(np.asarray(actions, np.float64)[:, 0], -1.0, 1.0)
        sin, cos = np.sin(theta), np.cos(theta)
        total_mass = CART_MASS + POLE_MASS
        pole_moment = POLE_MASS * POLE_HALF_LENGTH
        cart_friction = CART_FRICTION * np.sign(x_dot)
        push = (-force - pole_moment * theta_dot**2 * sin + cart_friction) / total_mass
        theta_acc = (GRAVITY * sin + cos * push - POLE_FRICTION * theta_dot / pole_moment) / (
            POLE_HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cos**2 / total_mass)
        )
        x_acc = (
            force + pole_moment * (theta_dot**2 * sin - theta_acc * cos) - cart_friction
        ) / total_mass
        derivative = np.stack([x_dot, x_acc, theta_dot, theta_acc], axis=1)
        simulator = states.simulator + self._time_step * derivative
        elapsed = states.elapsed + 1

        x, theta = simulator[:, 0], simulator[:, 2]
        live = ~((np.abs(x) > MAX_POSITION) | (np.abs(theta) > MAX_ANGLE))  # NaN shows as NaN
        rewards = np.where(live, 10.0 - (1.0 - np.cos(theta)) - 1e-5 * force**2, 0.0)
        return base.Step(
            base.EnvironmentStates(simulator, elapsed),
            rewards,
            ~live,
            live & (elapsed >= self.max_episode_steps),
        )

    def observe(self, states):
        return states.simulator

    def render(self, states):
        return np.stack([_picture(x, theta) for x, _, theta, _ in states.simulator])


def _picture(x: float, theta: float) -> np.ndarray:
    """Returns cart, pole and the bounds of the track, [240, 320, 3] uint8."""
    picture = np.full((240, 320, 3), 255, np.uint8)
    scale, ground = 60, 180  # pixels a meter; height of the track

    def at(meters: float, height: float) -> tuple[int, int]:
        return round(160 + scale * meters), round(ground - scale * height)

    cv2.line(picture, at(-MAX_POSITION, 0), at(MAX_POSITION, 0), (0, 0, 0), 1)
    for bound in (-MAX_POSITION, MAX_POSITION):
        cv2.line(picture, at(bound, -0.1), at(bound, 0.1), (200, 0, 0), 2)
    cv2.rectangle(picture, at(x - 0.25, 0.15), at(x + 0.25, -0.15), (60, 60, 60), -1)
    length = 2 * POLE_HALF_LENGTH
    top = at(x + length * np.sin(theta), 0.15 + length * np.cos(theta))
    cv2.line(picture, at(x, 0.15), top, (200, 120, 40), 6, cv2.LINE_AA)
    return picture
