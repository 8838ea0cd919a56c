"""Draws an episode of a trained policy as a GIF or MP4, without a display.

python experiments/watch.py --run=results/swimmer/vine/seed_1 --out=swimmer.gif
python experiments/watch.py --run=runs/hopper_1 --out=hopper.mp4 --training

--training shows the policy before, after half of, and after all training side by side. MuJoCo draws
by EGL unless the environment variable MUJOCO_GL says otherwise.
"""

import dataclasses
import os
import pathlib

import cv2
import numpy as np
from absl import flags
from PIL import Image

import trpo_repro.commands.quiet  # noqa: F401, before what imports TensorFlow
from trpo_repro import environments, files, runs
from trpo_repro.commands import cli

flags.declare_key_flag("out")
RUN = flags.DEFINE_string("run", None, "Directory of the run.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the episode.", lower_bound=0)
STEPS = flags.DEFINE_integer("steps", 1000, "Steps to show at most.", lower_bound=1)
EVERY = flags.DEFINE_integer("every", 4, "Steps from one frame to the next.", lower_bound=1)
FRAME_RATE = flags.DEFINE_integer("frame_rate", 15, "Frames a second.", lower_bound=1)
WIDTH = flags.DEFINE_integer("width", 200, "Pixels of a picture's width.", lower_bound=80)
DETERMINISTIC = flags.DEFINE_bool(
    "deterministic", False, "Take the most probable actions instead of samples."
)
TRAINING = flags.DEFINE_bool(
    "training", False, "Show the policy before, after half of, and after all training."
)
TEXT_HEIGHT = 32  # pixels
COLORS = 32  # of a GIF


@dataclasses.dataclass(frozen=True)
class Frame:
    """A picture, [H, W, 3] uint8, and what has been earned until then."""

    picture: np.ndarray
    step: int
    reward: float
    total: float


def main(_):
    if not RUN.value:
        cli.refuse("give the run's directory with --run=DIR")
    output = pathlib.Path(cli.OUT.value or "")
    if not cli.OUT.value:
        cli.refuse("give the film's file with --out=FILE.gif or FILE.mp4")
    if output.suffix not in (".gif", ".mp4"):
        cli.refuse(f"--out={output} is not allowed: must be a file ending in .gif or .mp4")
    with cli.refused_errors():
        loaded = runs.load(RUN.value, drawn=True)
        shown = policies(loaded, pathlib.Path(RUN.value))
        films = [
            [described(label, frame) for frame in episode(loaded.environment, policy)]
            for label, policy in shown.items()
        ]
        write(output, side_by_side(films), FRAME_RATE.value)
    print(output)


def policies(loaded: runs.LoadedRun, directory: pathlib.Path) -> dict[str, runs.TrainedPolicy]:
    """Returns label → policy: the last one, or those of the whole training that there are."""
    last = loaded.policy
    found = {f"iteration {last.iteration}": last}
    if not TRAINING.value:
        return found
    start = last.policy.network.initial_parameters()
    unseen = last.normalizer and last.normalizer.initial(len(last.normalizer.mean))
    first = dataclasses.replace(last, theta=start, iteration=0, normalizer=unseen)
    before = {"before training": first}
    if (directory / "policy_half.npz").exists():
        half = runs.load(directory, policy_file="policy_half.npz").policy
        before[f"iteration {half.iteration}"] = half
    return {**before, **found}


def episode(environment: environments.Environment, policy: runs.TrainedPolicy) -> list[Frame]:
    """Returns the frames of one episode."""
    generator = np.random.default_rng(SEED.value)
    states = environment.initial(1, generator)
    reward, total, step, ended = 0.0, 0.0, 0, False
    earned, shown, pictures = [], [], []
    while True:
        if step % EVERY.value == 0 or ended:
            earned.append((step, reward, total))
            if states.can_save:  # such states are drawn together: MuJoCo takes a second to begin
                shown.append(states)
            else:
                pictures.append(environment.render(states)[0])
        if ended or step == STEPS.value:
            break
        actions = policy.act(
            environment.observe(states), deterministic=DETERMINISTIC.value, generator=generator
        )
        after = environment.step(states, actions)
        states, reward, step = after.states, float(after.rewards[0]), step + 1
        total += reward
        ended = bool(after.terminated[0] or after.truncated[0])
    if shown:
        pictures = list(environment.render(type(states).concatenate(shown)))
    return [Frame(picture, *row) for picture, row in zip(pictures, earned, strict=True)]


def described(label: str, frame: Frame) -> np.ndarray:
    """Returns the picture at the width asked for, with two lines of text above it."""
    height = round(WIDTH.value * frame.picture.shape[0] / frame.picture.shape[1])
    picture = cv2.resize(frame.picture, (WIDTH.value, height), interpolation=cv2.INTER_AREA)
    text = np.zeros((TEXT_HEIGHT, WIDTH.value, 3), np.uint8)
    lines = (label, f"step {frame.step}  reward {frame.reward:.2f}  return {frame.total:.1f}")
    for i, line in enumerate(lines):
        place, white = (4, 13 + 14 * i), (255, 255, 255)
        cv2.putText(text, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.36, white, 1, cv2.LINE_AA)
    return np.concatenate([text, picture])


def side_by_side(films: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Returns the films beside one another; one that has ended stands still."""
    length = max(map(len, films))
    padded = [[*film, *[film[-1]] * (length - len(film))] for film in films]
    return [np.concatenate(pictures, axis=1) for pictures in zip(*padded, strict=True)]


def write(path: pathlib.Path, frames: list[np.ndarray], rate: int) -> None:
    """Replaces a GIF or MP4; OSError if it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        # Without dithering: a third of the size.
        few = [
            Image.fromarray(frame).quantize(COLORS, dither=Image.Dither.NONE) for frame in frames
        ]
        with files.replacing(path) as file:
            duration = 1000 / rate  # milliseconds a frame
            few[0].save(
                file, "GIF", save_all=True, append_images=few[1:], duration=duration, loop=0
            )
        return
    height, width = frames[0].shape[:2]
    unfinished = path.with_name(f"unfinished-{path.name}")
    code = cv2.VideoWriter_fourcc(*"mp4v")  # type: ignore[attr-defined]
    writer = cv2.VideoWriter(str(unfinished), code, rate, (width, height))
    if not writer.isOpened():
        raise OSError(f"{path} cannot be written")
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    os.replace(unfinished, path)


if __name__ == "__main__":
    cli.run(main)
