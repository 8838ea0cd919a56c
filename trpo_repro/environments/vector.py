"""Our environments as Gymnasium's vector environments, whose states can be saved and restored."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from trpo_repro.environments import base


@dataclasses.dataclass(frozen=True)
class VectorState:
    """All that the future of a vector environment depends on.

    Attributes:
      task: name of its environments' task.
      states: states of its environments.
      ended: [B] bool, the episodes that begin anew at the next step.
      generator: state of the generator of initial states.
    """

    task: str
    states: base.EnvironmentStates
    ended: np.ndarray
    generator: Mapping[str, Any]


class RestorableVectorEnv(gymnasium.vector.VectorEnv):
    """A batch of our environments behind Gymnasium's interface.

    `state` is a value, to which `restore` returns: a planner can branch from it. Actions are those
    of the environment: of a Box, clipped to it.
    """

    def __init__(
        self,
        environment: base.Environment,
        num_envs: int,
        *,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ):
        """Builds it; `reset` begins the episodes.

        Args:
          environment: from `environments.make`.
          num_envs: B, environments in the batch.
          autoreset_mode: NEXT_STEP, in which the step after an episode's last one begins a new one
            and ignores the action; SAME_STEP, in which the last one returns the new episode's first
            observation, and its own as `final_obs` in the information; or DISABLED, in which
            episodes begin by `reset(options={"reset_mask": mask})`.
          render_mode: `rgb_array`, or None.

        Raises:
          ValueError: an unknown render mode.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode={render_mode} is not allowed: must be rgb_array or None")
        self.environment = environment
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.metadata = {"autoreset_mode": autoreset_mode, "render_modes": ["rgb_array"]}
        self.single_observation_space = environment.observation_space
        self.single_action_space = environment.action_space
        batched = gymnasium.vector.utils.batch_space
        self.observation_space = batched(environment.observation_space, num_envs)
        self.action_space = batched(environment.action_space, num_envs)
        self._mode = autoreset_mode
        self._generator = np.random.default_rng()
        self._states: base.EnvironmentStates | None = None
        self._ended = np.zeros(num_envs, bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begins episodes, all of them or those of `options["reset_mask"]`, [B] bool.

        Args:
          seed: of the initial states, now and at later resets; None to leave the generator alone.
          options: `reset_mask`, or nothing.

        Returns:
          The [B, ...] observations, and no information.

        Raises:
          ValueError: a seed is none, or the mask has another shape.
        """
        mask = np.ones(self.num_envs, bool)
        if options and "reset_mask" in options and self._states is not None:
            mask = np.asarray(options["reset_mask"], bool)
            if mask.shape != (self.num_envs,):
                raise ValueError(f"reset_mask of shape {mask.shape}: must be ({self.num_envs},)")
        if seed is not None:
            try:
                self._generator = np.random.default_rng(seed)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise ValueError(f"seed={seed} is not allowed: must be whole numbers") from None
        self._begin(np.flatnonzero(mask))
        return self._observe(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Returns observations, rewards, terminated, truncated and information of [B] steps.

        Raises:
          RuntimeError: `reset` was never called, or an episode that ended was not reset.
          ValueError: there are not [B] actions.
        """
        if self._states is None:
            raise RuntimeError("call reset before step")
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions: must be {self.num_envs}")
        new = np.flatnonzero(self._ended)
        if len(new) and self._mode is AutoresetMode.DISABLED:
            raise RuntimeError(f"the episodes of environments {new.tolist()} ended: reset them")
        live = np.flatnonzero(~self._ended)
        if len(new):
            self._begin(new)
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        if len(live):
            step = self.environment.step(self._states.select(live), np.asarray(actions)[live])
            self._states = self._states.replace_at(live, step.states)
            rewards[live], terminated[live] = step.rewards, step.terminated
            truncated[live] = step.truncated
        ended = terminated | truncated
        information: dict[str, Any] = {}
        if self._mode is AutoresetMode.SAME_STEP and ended.any():
            final = np.empty(self.num_envs, object)
            last = self.environment.observe(self._states.select(np.flatnonzero(ended)))
            for i, observation in zip(np.flatnonzero(ended), last, strict=True):
                final[i] = observation
            information = {"final_obs": final, "_final_obs": ended.copy()}
            self._begin(np.flatnonzero(ended))
        else:
            self._ended = ended
        return self._observe(), rewards, terminated, truncated, information

    @property
    def state(self) -> VectorState:
        """The state now, a value.

        Raises:
          RuntimeError: `reset` was never called.
        """
        if self._states is None:
            raise RuntimeError("call reset before taking the state")
        generator = self._generator.bit_generator.state
        return VectorState(self.environment.name, self._states, self._ended.copy(), generator)

    def restore(self, state: VectorState) -> np.ndarray:
        """Returns to a state of this environment, or of one like it; returns the observations.

        Raises:
          ValueError: the environment cannot restore states, or the state is of another task or
            size.
        """
        if not self.environment.can_restore:
            raise ValueError(f"{self.environment.name} cannot restore states")
        if state.task != self.environment.name:
            raise ValueError(f"a state of {state.task}: must be of {self.environment.name}")
        if len(state.states) != self.num_envs:
            raise ValueError(
                f"a state of {len(state.states)} environments: must be {self.num_envs}"
            )
        self._states, self._ended = state.states, state.ended.copy()
        self._generator.bit_generator.state = state.generator
        return self._observe()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Returns a picture of each environment; None without a render mode."""
        if self.render_mode is None or self._states is None:
            return None
        return tuple(self.environment.render(self._states))

    def _begin(self, index: np.ndarray) -> None:
        new = self.environment.initial(len(index), self._generator)
        self._states = new if self._states is None else self._states.replace_at(index, new)
        self._ended[index] = False

    def _observe(self) -> np.ndarray:
        assert self._states is not None
        return np.array(self.environment.observe(self._states))
