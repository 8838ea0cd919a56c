"""Custom Gymnasium environments; registered when imported, as a user's module would."""

import gymnasium
import numpy as np


class Walk(gymnasium.Env):
    """A random walk toward a goal on a line, whose randomness is its own generator's."""

    observation_space = gymnasium.spaces.Dict(
        {
            "position": gymnasium.spaces.Box(-100, 100, (1, 2)),
            "side": gymnasium.spaces.Discrete(2),
        }
    )
    action_space = gymnasium.spaces.MultiDiscrete([3, 2])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._at = self.np_random.normal(size=(1, 2))
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._at = self._at + (action[0] - 1) + 0.1 * self.np_random.normal(size=(1, 2))
        done = bool(np.abs(self._at).max() > 5)
        return self._observation(), float(self._at.sum()), done, False, {"info": "ignored"}

    def _observation(self):
        return {"position": self._at.astype(np.float32), "side": int(self._at[0, 0] > 0)}


class Broken(gymnasium.Env):
    """Does what `fault` says."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,))
    action_space = gymnasium.spaces.Box(-2, 2, (2, 1))

    def __init__(self, fault):
        self._fault = fault
        self._generator = np.random.default_rng()

    def __deepcopy__(self, memo):
        if self._fault == "shares":
            return self
        raise RuntimeError("no copy")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        if self._fault == "seed":
            return self._generator.normal(size=3).astype(np.float32), {}
        return np.zeros(2 if self._fault == "shape" else 3, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self._steps += 1
        observation = np.full(3, self._steps / 100, np.float32)
        if self._fault == "nan" and self._steps == 3:
            observation[1] = np.nan
        return observation, 1.0, False, False, {}


class Image(gymnasium.Env):
    """A bright column to be met by one of two actions, in [H, W] or [H, W, 3] bytes."""

    def __init__(self, channels=0, side=12):
        shape = (side, side, channels) if channels else (side, side)
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(2, start=3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        reward = float(action - 3 == self._bright)
        return self._observation(), reward, False, False, {}

    def _observation(self):
        self._bright = int(self.np_random.integers(2))
        image = np.zeros(self.observation_space.shape, np.uint8)
        half = image.shape[1] // 2
        image[:, self._bright * half : (1 + self._bright) * half] = 200
        return image


gymnasium.register("Walk-v0", "toys:Walk", max_episode_steps=30)
gymnasium.register("Broken-v0", "toys:Broken", max_episode_steps=30)
gymnasium.register("Endless-v0", "toys:Broken", kwargs={"fault": ""})
gymnasium.register("Image-v0", "toys:Image", max_episode_steps=20)
