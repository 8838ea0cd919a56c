"""Trains SB3-contrib's TRPO with rl-zoo3's settings, to compare with: benchmark.py and bench.py.

.venv-peers/bin/python experiments/peer.py --task=Hopper-v5 --seed=1 --out=runs/peer_hopper_1

Runs in an environment of its own (requirements-peers.txt) and imports nothing of this project.
--out gets metrics.csv, a row a batch, with the wall-clock seconds of training, and peer.json with
100 evaluation episodes of the final policy and the versions. Without --out it prints the training
steps a second.
"""

import argparse
import csv
import importlib.metadata
import json
import pathlib
import time

import gymnasium
import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

# hyperparameters/trpo.yml of rl-zoo3: what it says of MuJoCo, and of two tasks besides. It has no
# entry for InvertedDoublePendulum, which gets SB3-contrib's defaults.
MUJOCO = {
    "n_steps": 1024,
    "batch_size": 128,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "sub_sampling_factor": 1,
    "cg_max_steps": 25,
    "cg_damping": 0.1,
    "n_critic_updates": 20,
    "learning_rate": 1e-3,
}
SETTINGS = {
    "Swimmer-v5": {**MUJOCO, "gamma": 0.9999},
    "Hopper-v5": MUJOCO,
    "Walker2d-v5": MUJOCO,
    "HalfCheetah-v5": {**MUJOCO, "target_kl": 0.04},
    "InvertedDoublePendulum-v5": {},
}
EPISODES = 100
VERSIONS = ("sb3-contrib", "stable-baselines3", "gymnasium", "mujoco", "torch", "numpy")


class Recorder(BaseCallback):
    """Notes a row at the end of every batch of steps."""

    def __init__(self):
        super().__init__()
        self.rows = []
        self._started = time.perf_counter()

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        recent = [episode["r"] for episode in self.model.ep_info_buffer]  # the last 100
        self.rows.append(
            {
                "iteration": len(self.rows) + 1,
                "env_steps": self.num_timesteps,
                "return_recent": float(np.mean(recent)) if recent else "",
                "seconds": time.perf_counter() - self._started,
            }
        )


def make(task, seed, copies):
    return make_vec_env(lambda: gymnasium.make(task), n_envs=copies, seed=seed)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", default="Hopper-v5", choices=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    settings = SETTINGS[flags.task]
    normalized = bool(settings)
    environment = make(flags.task, flags.seed, 2 if normalized else 1)
    if normalized:
        environment = VecNormalize(environment, gamma=settings["gamma"])
    model = TRPO("MlpPolicy", environment, seed=flags.seed, device="cpu", **settings)
    recorder = Recorder()
    if flags.out is None:
        model.learn(2048)  # the first batch makes what the others use
        started = time.perf_counter()
        model.learn(flags.steps, reset_num_timesteps=False)
        print(json.dumps({"steps_per_second": flags.steps / (time.perf_counter() - started)}))
        return
    model.learn(flags.steps, callback=recorder)
    judge = make(flags.task, 2**31 - 1 - flags.seed, 10)
    if normalized:
        statistics, environment = environment, VecNormalize(judge, training=False)
        environment.obs_rms, environment.norm_reward = statistics.obs_rms, False
        judge = environment
    evaluations = {}
    for name, deterministic in (("sampled", False), ("mode", True)):
        returns, lengths = evaluate_policy(
            model, judge, EPISODES, deterministic=deterministic, return_episode_rewards=True
        )
        evaluations[name] = {"return_mean": np.mean(returns), "episode_length": np.mean(lengths)}
    record = {
        "task": flags.task,
        "seed": flags.seed,
        "settings": settings,
        "normalized": normalized,
        "evaluations": evaluations,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "peer.json").write_text(json.dumps(record, indent=2, default=float) + "\n")
    # Last, and at once: it tells that the run is done.
    unfinished = flags.out / "metrics.csv.tmp"
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, recorder.rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(recorder.rows)
    unfinished.replace(flags.out / "metrics.csv")


if __name__ == "__main__":
    main()
