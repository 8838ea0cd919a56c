"""Times SB3-contrib's TRPO on Hopper-v5 with rl-zoo3's settings; run by bench.py.

Runs in an environment of its own (requirements-peers.txt) and imports nothing of this project.
"""

import json
import time

import gymnasium
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

STEPS = 20 * 2048


def main():
    environment = VecNormalize(make_vec_env(lambda: gymnasium.make("Hopper-v5"), n_envs=2, seed=0))
    model = TRPO(
        "MlpPolicy",
        environment,
        n_steps=1024,
        batch_size=128,
        gae_lambda=0.95,
        cg_max_steps=25,
        cg_damping=0.1,
        n_critic_updates=20,
        learning_rate=1e-3,
        seed=0,
        device="cpu",
    )
    model.learn(2048)
    started = time.perf_counter()
    model.learn(STEPS, reset_num_timesteps=False)
    print(json.dumps({"steps_per_second": STEPS / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
