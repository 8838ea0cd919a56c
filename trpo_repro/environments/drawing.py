"""Draws MuJoCo states, in a process that does not import TensorFlow.

Mesa's software renderer and TensorFlow each bring an LLVM of their own, and a process that holds
both crashes: `pictures` starts this module as a program, with EGL unless MUJOCO_GL says otherwise.
"""

import io
import os
import pathlib
import subprocess
import sys

import mujoco
import numpy as np

PICTURE = (240, 320)  # height, width


def pictures(model: mujoco.MjModel, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    """Returns [B, H, W, 3] uint8 pictures of [B, nq] positions and [B, nv] velocities.

    Raises:
      ValueError: there is no renderer.
    """
    binary = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, binary)
    sent = io.BytesIO()
    np.savez(sent, allow_pickle=False, model=binary, qpos=qpos, qvel=qvel)
    root = str(pathlib.Path(__file__).parent.parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, "-m", "trpo_repro.environments.drawing"],
        input=sent.getvalue(),
        capture_output=True,
        check=False,
        env={"MUJOCO_GL": "egl", **os.environ, "PYTHONPATH": paths},
    )
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines() or ["it crashed"]
        raise ValueError(
            "MuJoCo cannot draw: install EGL (Debian: libegl1 and libgl1-mesa-dri), or OSMesa "
            f"(libosmesa6) and set MUJOCO_GL=osmesa; it said: {said[-1]}"
        )
    return np.load(io.BytesIO(result.stdout), allow_pickle=False)


def _main() -> None:
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as archive:
        arrays = dict(archive)
    model = mujoco.MjModel.from_binary_path("model", {"model": arrays["model"].tobytes()})
    data = mujoco.MjData(model)
    track = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "track")
    renderer = mujoco.Renderer(model, *PICTURE)
    drawn = []
    for qpos, qvel in zip(arrays["qpos"], arrays["qvel"], strict=True):
        data.qpos, data.qvel = qpos, qvel
        mujoco.mj_forward(model, data)
        renderer.update_scene(data, camera=track)
        drawn.append(renderer.render())
    np.save(sys.stdout.buffer, np.stack(drawn), allow_pickle=False)


if __name__ == "__main__":
    _main()
