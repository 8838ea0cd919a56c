"""MuJoCo locomotion and balancing: the tasks are data, one class steps them all.

A state is (qpos, qvel, qacc_warmstart, carried outputs): with the solver's warm start in the
value, a restored state continues bit for bit, and so does Gymnasium's own environment from
the same start. `mujoco.batch.Batch` steps all states in C++ threads with the GIL released.
"""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping

import gymnasium
import mujoco
import numpy as np
from mujoco import batch as mujoco_batch

from trpo_repro.environments import base, drawing
from trpo_repro.settings import Group, Readers, setting

_ASSETS = pathlib.Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
_NET_FORCE = (1 << int(mujoco.mjtConDataField.mjCONDATA_FORCE), 3, 1)  # data, reduction, slots


IN_MUJOCO = Readers("MuJoCo's tasks that are built in", lambda config: config.task in TASKS)


@dataclasses.dataclass(frozen=True)
class ThreadSettings(Group, title="Simulator", readers=IN_MUJOCO):
    threads: int = setting(
        0, "Simulator threads, 0 for every core; never changes a number", at_least=0
    )


@dataclasses.dataclass(frozen=True)
class Transition:
    """One environment step of B states, as reward functions see it.

    Attributes:
      qpos_before: [B, nq] generalized positions before the step.
      qpos: [B, nq] generalized positions after it.
      qvel: [B, nv] generalized velocities after it.
      actions: [B, nu] float64, as given: possibly outside the control range.
      controls: [B, nu] actions clipped to the control range.
      outputs: MuJoCo's derived fields by name, [B, ...]; like MuJoCo's own after a step, they
        describe the last substep's beginning (RK4: its last stage).
      seconds: duration of the step.
    """

    qpos_before: np.ndarray
    qpos: np.ndarray
    qvel: np.ndarray
    actions: np.ndarray
    controls: np.ndarray
    outputs: Mapping[str, np.ndarray]
    seconds: float


def root_joint(qpos: np.ndarray) -> np.ndarray:
    """Returns the [B] x positions of the model's root joint, from [B, nq] positions."""
    return qpos[:, 0]


def swimmer_center_of_mass(qpos: np.ndarray) -> np.ndarray:
    """Returns the [B] x positions of the swimmer's center of mass, from [B, 5] positions.

    Three equal links of unit length at absolute angles a, b, c, the root joint half a link behind
    the first: x + (2 cos a − 1.5 cos b − 0.5 cos c) / 3.
    """
    first, second, third = np.cos(np.cumsum(qpos[:, 2:], axis=1)).T
    return qpos[:, 0] + (2 * first - 1.5 * second - 0.5 * third) / 3


@dataclasses.dataclass(frozen=True)
class Locomotion:
    """Reward: forward velocity + alive bonus − control cost − foot impact cost.

    Attributes:
      control_cost: coefficient of ‖u‖².
      cost_of_clipped: charge for the clipped control (the joint torque that acts) instead of
        for the action as given.
      position: [B, nq] positions → [B] x positions in m, whose mean velocity over the step is
        rewarded.
      forward_weight: coefficient of that velocity, in 1/(m/s).
      alive_bonus: paid in healthy states.
      healthy: (column of qpos, lowest, highest), open intervals.
      healthy_limit: bound on |.| of every position but x and z and of every velocity.
      impact_cost: coefficient of the squared net contact forces on the feet, in 1/N².
      impact_limit: largest impact cost of a step.
    """

    control_cost: float = 0.0
    cost_of_clipped: bool = False
    position: Callable[[np.ndarray], np.ndarray] = root_joint
    forward_weight: float = 1.0
    alive_bonus: float = 0.0
    healthy: tuple[tuple[int, float, float], ...] = ()
    healthy_limit: float = np.inf
    impact_cost: float = 0.0
    impact_limit: float = np.inf

    def __call__(self, transition: Transition) -> tuple[np.ndarray, np.ndarray]:
        """Returns ([B] rewards, [B] healthy); states that are not healthy end the episode."""
        t = transition
        healthy = np.ones(len(t.qpos), bool)
        for column, low, high in self.healthy:
            healthy &= (low < t.qpos[:, column]) & (t.qpos[:, column] < high)
        if np.isfinite(self.healthy_limit):
            healthy &= (np.abs(t.qpos[:, 2:]) < self.healthy_limit).all(axis=1)
            healthy &= (np.abs(t.qvel) < self.healthy_limit).all(axis=1)
        controls = t.controls if self.cost_of_clipped else t.actions
        distance = self.position(t.qpos) - self.position(t.qpos_before)
        rewards = self.forward_weight * distance / t.seconds
        rewards += self.alive_bonus * healthy - self.control_cost * np.sum(controls**2, axis=1)
        if self.impact_cost:
            impacts = self.impact_cost * np.sum(t.outputs["sensordata"] ** 2, axis=1)
            rewards -= np.minimum(impacts, self.impact_limit)
        return rewards, healthy


def double_pendulum(transition: Transition) -> tuple[np.ndarray, np.ndarray]:
    """Reward of InvertedDoublePendulum-v5: alive bonus − distance of the tip − velocities."""
    x, _, y = transition.outputs["site_xpos"][:, 0].T
    healthy = ~(y <= 1)
    distance = 0.01 * x**2 + (y - 2) ** 2
    velocity = 1e-3 * transition.qvel[:, 1] ** 2 + 5e-3 * transition.qvel[:, 2] ** 2
    return 10.0 * healthy - distance - velocity, healthy


@dataclasses.dataclass(frozen=True)
class Task:
    """What tells one MuJoCo task from another.

    Attributes:
      model: file in Gymnasium's asset directory.
      frame_skip: simulator substeps per environment step.
      reward: maps a Transition to rewards and healthy states.
      position_noise: initial positions are uniform within ± this of the model's.
      velocity_noise: initial velocities: the same, or the deviation of a normal.
      normal_velocities: whether initial velocities are normal.
      hidden_positions: leading positions left out of the observation.
      velocity_limit: observed velocities, and the cart's constraint force, are clipped to ± this.
      angles_as_sin_cos: observe angles as sines and cosines, and the cart's constraint force.
      feet: geoms whose net contact force is measured.
      outputs: derived MuJoCo fields that the reward or the observation needs.
    """

    model: str
    frame_skip: int
    reward: Callable[[Transition], tuple[np.ndarray, np.ndarray]]
    position_noise: float
    velocity_noise: float
    normal_velocities: bool = False
    hidden_positions: int = 0
    velocity_limit: float = np.inf
    angles_as_sin_cos: bool = False
    feet: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


_HOPPER_HEALTHY = ((1, 0.7, np.inf), (2, -0.2, 0.2))
_WALKER_HEALTHY = ((1, 0.8, 2.0), (2, -1.0, 1.0))

TASKS: dict[str, Task] = {
    # Paper, Sec. 8.1: full state, control cost 1e-5 (departures: WORKSPACE.md).
    "swimmer": Task(
        "swimmer.xml", 4,
        Locomotion(1e-5, cost_of_clipped=True, position=swimmer_center_of_mass),
        position_noise=0.1, velocity_noise=0.1,
    ),
    # Swimmer rewarded as in Gymnasium, to compare with: experiments/swimmer_study.py.
    "swimmer_root_joint": Task(
        "swimmer.xml", 4, Locomotion(1e-5, cost_of_clipped=True),
        position_noise=0.1, velocity_noise=0.1,
    ),
    "hopper": Task(
        "hopper.xml", 4,
        Locomotion(
            1e-5, cost_of_clipped=True, alive_bonus=1.0,
            healthy=_HOPPER_HEALTHY, healthy_limit=100.0,
        ),
        position_noise=5e-3, velocity_noise=5e-3, velocity_limit=10.0,
    ),
    "walker": Task(
        "walker2d_v5.xml", 4,
        Locomotion(
            1e-5, cost_of_clipped=True, alive_bonus=1.0, healthy=_WALKER_HEALTHY,
            impact_cost=5e-7, impact_limit=10.0,
        ),
        position_noise=5e-3, velocity_noise=5e-3, velocity_limit=10.0,
        feet=("foot_geom", "foot_left_geom"), outputs=("sensordata",),
    ),
    # Gymnasium 1.4's definitions.
    "Swimmer-v5": Task(
        "swimmer.xml", 4, Locomotion(1e-4),
        position_noise=0.1, velocity_noise=0.1, hidden_positions=2,
    ),
    "Hopper-v5": Task(
        "hopper.xml", 4,
        Locomotion(1e-3, alive_bonus=1.0, healthy=_HOPPER_HEALTHY, healthy_limit=100.0),
        position_noise=5e-3, velocity_noise=5e-3, hidden_positions=1, velocity_limit=10.0,
    ),
    "Walker2d-v5": Task(
        "walker2d_v5.xml", 4, Locomotion(1e-3, alive_bonus=1.0, healthy=_WALKER_HEALTHY),
        position_noise=5e-3, velocity_noise=5e-3, hidden_positions=1, velocity_limit=10.0,
    ),
    "HalfCheetah-v5": Task(
        "half_cheetah.xml", 5, Locomotion(0.1),
        position_noise=0.1, velocity_noise=0.1, normal_velocities=True, hidden_positions=1,
    ),
    "InvertedPendulum-v5": Task(
        "inverted_pendulum.xml", 2,
        Locomotion(forward_weight=0.0, alive_bonus=1.0, healthy=((1, -0.2, 0.2),)),
        position_noise=0.01, velocity_noise=0.01,
    ),
    "InvertedDoublePendulum-v5": Task(
        "inverted_double_pendulum.xml", 5, double_pendulum,
        position_noise=0.1, velocity_noise=0.1, normal_velocities=True, velocity_limit=10.0,
        angles_as_sin_cos=True, outputs=("site_xpos", "qfrc_constraint"),
    ),
}  # fmt: skip


class Mujoco(base.Environment):
    """A batch of MuJoCo simulations of one task.

    The batch object inside is scratch memory: every call loads states, runs and reads them back.
    Calls must not overlap in time; use one object per Python thread.
    """

    action_space: gymnasium.spaces.Box

    def __init__(
        self,
        name: str,
        *,
        threads: int | None = None,
        max_episode_steps: int = 1000,
        frame_skip: int | None = None,
    ):
        """Builds the model.

        Args:
          name: a key of TASKS.
          threads: simulator threads; all available cores when None.
          max_episode_steps: time limit in environment steps.
          frame_skip: substeps per environment step, when not the task's own.
        """
        self.name = name
        self.task = TASKS[name]
        self.max_episode_steps = max_episode_steps
        self._frame_skip = frame_skip or self.task.frame_skip
        self.threads = threads or len(os.sched_getaffinity(0))
        self.model = _build_model(self.task)
        self._qpos_end = self.model.nq
        self._qvel_end = self.model.nq + self.model.nv
        self._warmstart_end = self._qvel_end + self.model.nv
        self.seconds_per_step = float(self.model.opt.timestep * self._frame_skip)
        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        self.action_space = gymnasium.spaces.Box(low, high)
        self._resize(1)
        columns = self.observe(self.initial(1, np.random.default_rng(0))).shape[1]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (columns,), np.float64)

    def initial(self, batch_size, generator):
        task = self.task
        qpos = self.model.qpos0 + generator.uniform(
            -task.position_noise, task.position_noise, (batch_size, self.model.nq)
        )
        if task.normal_velocities:
            qvel = task.velocity_noise * generator.standard_normal((batch_size, self.model.nv))
        else:
            qvel = generator.uniform(
                -task.velocity_noise, task.velocity_noise, (batch_size, self.model.nv)
            )
        return self.states_at(qpos, qvel)

    def states_at(self, qpos: np.ndarray, qvel: np.ndarray) -> base.EnvironmentStates:
        """Returns episode-start states with these [B, nq] positions and [B, nv] velocities."""
        index = self._load(qpos, qvel, np.zeros_like(qvel), controls=0.0)
        self._batch.forward(index)
        return base.EnvironmentStates(self._read(index), np.zeros(len(index), np.int64))

    def step(self, states, actions):
        qpos_before, qvel, warmstart = self._split(states.simulator)
        actions = np.asarray(actions, np.float64)
        index = self._load(qpos_before, qvel, warmstart, actions)
        self._batch.step(index, nstep=self._frame_skip)
        simulator = self._read(index)
        qpos, qvel, _ = self._split(simulator)
        rewards, healthy = self.task.reward(
            Transition(
                qpos_before,
                qpos,
                qvel,
                actions,
                np.clip(actions, self.action_space.low, self.action_space.high),
                {name: field[: len(index)] for name, field in self._outputs.items()},
                self.seconds_per_step,
            )
        )
        elapsed = states.elapsed + 1
        return base.Step(
            base.EnvironmentStates(simulator, elapsed),
            rewards,
            ~healthy,
            healthy & (elapsed >= self.max_episode_steps),
        )

    def observe(self, states):
        qpos, qvel, _ = self._split(states.simulator)
        limit = self.task.velocity_limit
        if self.task.angles_as_sin_cos:
            parts = [qpos[:, :1], np.sin(qpos[:, 1:]), np.cos(qpos[:, 1:])]
            parts += [qvel, states.simulator[:, self._warmstart_end :]]
            return np.concatenate(
                parts[:3] + [np.clip(part, -limit, limit) for part in parts[3:]], axis=1
            )
        if np.isfinite(limit):
            qvel = np.clip(qvel, -limit, limit)
        return np.concatenate([qpos[:, self.task.hidden_positions :], qvel], axis=1)

    def render(self, states):
        qpos, qvel, _ = self._split(states.simulator)
        return drawing.pictures(self.model, qpos, qvel)

    def _split(self, simulator: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            simulator[:, : self._qpos_end],
            simulator[:, self._qpos_end : self._qvel_end],
            simulator[:, self._qvel_end : self._warmstart_end],
        )

    def _resize(self, capacity: int) -> None:
        self._batch = mujoco_batch.Batch(self.model, capacity, self.threads)
        self._inputs = [
            self._batch.bind(name) for name in ("qpos", "qvel", "qacc_warmstart", "ctrl")
        ]
        self._outputs = {name: self._batch.bind(name) for name in self.task.outputs}

    def _load(self, qpos, qvel, warmstart, controls) -> np.ndarray:
        """Writes B states into the batch, grown if need be, and returns their indices."""
        size = len(qpos)
        if size > self._batch.nsim:
            self._resize(size)
        for field, value in zip(self._inputs, (qpos, qvel, warmstart, controls), strict=True):
            field[:size] = value
        return np.arange(size)

    def _read(self, index: np.ndarray) -> np.ndarray:
        """Returns the [B, n] simulator state of the first B states of the batch."""
        size = len(index)
        parts = [field[:size] for field in self._inputs[:3]]
        if self.task.angles_as_sin_cos:
            parts.append(self._outputs["qfrc_constraint"][:size, :1])
        return np.concatenate(parts, axis=1)


def _build_model(task: Task) -> mujoco.MjModel:
    """Returns the task's model, with a net contact force sensor on each of its feet.

    A simulation that diverges stays so: MuJoCo's silent reset of it is switched off.
    """
    spec = mujoco.MjSpec.from_file(str(_ASSETS / task.model))
    for foot in task.feet:
        sensor = spec.add_sensor(
            name=f"{foot}_force",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_GEOM,
            objname=foot,
        )
        sensor.intprm[: len(_NET_FORCE)] = _NET_FORCE
    spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    with warnings.catch_warnings():
        # Gymnasium's HalfCheetah uses a deprecated attribute; that is Gymnasium's to change.
        warnings.filterwarnings("ignore", "compiler attribute 'settotalmass'")
        return spec.compile()
