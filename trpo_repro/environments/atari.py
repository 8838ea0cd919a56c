"""Atari games of the Arcade Learning Environment, from pixels.

An action is repeated for four frames; a frame of the observation is the pixelwise maximum of the
last two of them, gray, resized by area; an observation stacks the last four such frames. An
episode begins with up to 30 no-ops and ends with the game, not with a life, or after 108,000
frames. Rewards are the game's points.
"""

import dataclasses
from collections.abc import Mapping
from typing import Self

import ale_py
import cv2
import gymnasium
import numpy as np
from ale_py import roms

from trpo_repro.environments import base
from trpo_repro.settings import Group, Readers, setting

SCREENS = {"52x40": (52, 40), "84x84": (84, 84)}  # height and width
ACTION_SETS = ("factored", "minimal")
FRAME_SKIP = 4
FRAME_STACK = 4
MAX_NOOPS = 30
MAX_FRAMES = 108_000
SLOTS = 32  # emulators of one environment object

# Of App. D's tuple (horizontal, vertical, fire): left, none, right; up, none, down.
_HORIZONTAL, _VERTICAL = ("LEFT", "", "RIGHT"), ("UP", "", "DOWN")


def games() -> tuple[str, ...]:
    """Returns the names of the games whose ROMs ale-py ships."""
    return tuple(sorted(roms.get_all_rom_ids()))


@dataclasses.dataclass(frozen=True)
class AtariSettings(
    Group, title="Atari", readers=Readers("Atari games", lambda config: config.is_atari)
):
    screen: str = setting("52x40", "Height x width of the frames", choices=tuple(SCREENS))
    action_set: str = setting(
        "factored",
        "Actions: factored is horizontal 3 x vertical 3 x fire 2, minimal the game's own",
        choices=ACTION_SETS,
    )
    sticky_probability: float = setting(
        0.0, "Probability that a frame repeats the action before", at_least=0, at_most=1
    )


@dataclasses.dataclass(frozen=True)
class AtariStates(base.EnvironmentStates):
    """B states of a game.

    Attributes:
      simulator: [B] ale_py.ALEState, the emulator without its random number generator, whose
        numbers decide nothing here: see `keys`.
      elapsed: [B] int64, decisions since the start of the episode.
      frames: [B, 4, H, W] uint8, the observation: what a restored emulator's screen has lost.
      buttons: [B] int64, the emulator's action in the last frame, which sticky actions repeat.
      keys: [B] uint64, of the random numbers that decide when.
    """

    frames: np.ndarray
    buttons: np.ndarray
    keys: np.ndarray

    def to_arrays(self):
        texts = [np.frombuffer(state.serialize(), np.uint8) for state in self.simulator]
        sizes = np.array([len(text) for text in texts], np.int64)
        padded = np.zeros((len(texts), max(sizes, default=0)), np.uint8)
        for row, text in zip(padded, texts, strict=True):
            row[: len(text)] = text
        return {
            "emulator": padded,
            "emulator_size": sizes,
            **{name: array for name, array in self._fields().items() if name != "simulator"},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        pairs = zip(arrays["emulator"], arrays["emulator_size"], strict=True)
        states = [ale_py.ALEState(row[:size].tobytes()) for row, size in pairs]
        names = ("elapsed", "frames", "buttons", "keys")
        return cls(_objects(states), *(arrays[name] for name in names))


class Atari(base.Environment):
    """A batch of games.

    The emulators inside are scratch memory. One that still holds the state that it is to step
    from, because it made it, is not restored: an unbroken path restores nothing.
    """

    frame_stack = FRAME_STACK
    states_type = AtariStates
    max_episode_steps = MAX_FRAMES // FRAME_SKIP

    def __init__(
        self,
        name: str,
        *,
        screen: str = "52x40",
        action_set: str = "factored",
        sticky_probability: float = 0.0,
        slots: int = SLOTS,
    ):
        """Builds the environment; emulators are made when they are needed.

        Args:
          name: one of `games()`.
          screen: size of a frame, a key of SCREENS.
          action_set: `factored`, (horizontal, vertical, fire) over the full joystick, or
            `minimal`, the game's own actions.
          sticky_probability: probability that the emulator repeats the action before, each frame.
          slots: emulators at most; more states than these are restored before each step.

        Raises:
          ValueError: an unknown name, screen or set of actions.
        """
        for value, known in ((name, games()), (screen, SCREENS), (action_set, ACTION_SETS)):
            if value not in known:
                raise ValueError(f"unknown {value!r}; known: {', '.join(known)}")
        self.name = name
        self._rom = str(roms.get_rom_path(name))
        self.preferred_batch_size: int = slots
        self._size = SCREENS[screen][::-1]  # as OpenCV counts
        self._sticky = sticky_probability
        self._slots: list[ale_py.ALEInterface] = []
        self._held: list[ale_py.ALEState | None] = []
        self._new_slot()
        emulator = self._slots[0]
        shape = (FRAME_STACK, *SCREENS[screen])
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, np.uint8)
        self.action_space: gymnasium.spaces.Space
        if action_set == "factored":
            self.action_space = gymnasium.spaces.MultiDiscrete([3, 3, 2])
            self._actions = _joystick()
        else:
            actions = emulator.getMinimalActionSet()
            self.action_space = gymnasium.spaces.Discrete(len(actions))
            self._actions = np.array([action.value for action in actions])
        height, width = emulator.getScreenDims()
        self._screens = np.empty((2, height, width), np.uint8)
        emulator.reset_game()
        self._start = emulator.cloneState(include_rng=False)
        emulator.getScreenGrayscale(self._screens[0])
        self._start_frame = self._resize(self._screens[0])
        # Something that a saved state leaves out has another value until the first frame after
        # a reset. Without this no-op, a Q*bert state restored into a fresh emulator evolves
        # differently.
        emulator.act(0)

    def initial(self, batch_size, generator):
        noops = generator.integers(MAX_NOOPS + 1, size=batch_size)
        keys = generator.integers(2**63, size=batch_size).astype(np.uint64)
        states, frames = [], []
        emulator = self._slots[0]
        self._held[0] = None
        for count in noops:
            emulator.restoreState(self._start)
            for _ in range(count):
                emulator.act(0)
            frame = self._start_frame
            if count:
                emulator.getScreenGrayscale(self._screens[0])
                frame = self._resize(self._screens[0])
            states.append(emulator.cloneState(include_rng=False))
            frames.append(np.broadcast_to(frame, self.observation_space.shape))
        shape = (batch_size, *self.observation_space.shape)
        stacked = np.stack(frames) if frames else np.empty(shape, np.uint8)
        zeros = np.zeros(batch_size, np.int64)
        return AtariStates(_objects(states), zeros, stacked, zeros, keys)

    def step(self, states, actions):
        size = len(states)
        pressed = self._pressed(states, actions)
        after = np.empty(size, object)
        rewards = np.zeros(size)
        terminated = np.zeros(size, bool)
        elapsed = states.elapsed + 1
        frames = np.empty_like(states.frames)
        frames[:, :-1] = states.frames[:, 1:]
        slots = self._assign(states.simulator)
        for i in range(size):
            slot = slots[i] if slots else 0
            emulator = self._slots[slot]
            self._held[slot] = None  # an interrupt may come before it holds the next state
            if not slots:
                emulator.restoreState(states.simulator[i])
            first, second = self._screens
            for k, button in enumerate(pressed[i].tolist()):
                rewards[i] += emulator.act(button)
                if k == FRAME_SKIP - 2:
                    emulator.getScreenGrayscale(first)
                if emulator.game_over(with_truncation=False):
                    terminated[i] = True
                    break
            emulator.getScreenGrayscale(second)
            if k < FRAME_SKIP - 2:  # the game ended before the first of the two
                first[:] = second
            np.maximum(first, second, out=first)
            frames[i, -1] = self._resize(first)
            after[i] = self._held[slot] = emulator.cloneState(include_rng=False)
        truncated = ~terminated & (elapsed >= self.max_episode_steps)
        next_states = AtariStates(after, elapsed, frames, pressed[:, -1], states.keys)
        return base.Step(next_states, rewards, terminated, truncated)

    def observe(self, states):
        return states.frames

    def fingerprints(self, states):
        prints = []
        fields = (states.simulator, states.frames, states.elapsed, states.keys, states.buttons)
        for emulator, frames, *rest in zip(*fields, strict=True):
            # What was pressed and the key matter to sticky actions alone.
            numbers = rest if self._sticky else rest[:1]
            parts = [frames.tobytes(), *(number.tobytes() for number in numbers)]
            prints.append(emulator.serialize() + b"".join(parts))
        return prints

    def render(self, states):
        """Returns the screens one frame, a no-op, after the states: emulators save no screens."""
        emulator = self._slots[0]
        self._held[0] = None
        pictures = []
        for state in states.simulator:
            emulator.restoreState(state)
            emulator.act(0)
            pictures.append(emulator.getScreenRGB())
        return np.stack(pictures)

    def _pressed(self, states: AtariStates, actions: np.ndarray) -> np.ndarray:
        """Returns the emulator's action in each frame of a step, [B, FRAME_SKIP].

        A sticky frame repeats the one before. The emulator could do that by itself, but its
        states lack the action before: restored ones would evolve differently.
        """
        if isinstance(self.action_space, gymnasium.spaces.MultiDiscrete):
            chosen = self._actions[tuple(np.asarray(actions).T)]
        else:
            chosen = self._actions[np.asarray(actions)]
        pressed = np.repeat(chosen[:, None], FRAME_SKIP, axis=1)
        if self._sticky:
            before = states.buttons
            for k in range(FRAME_SKIP):
                repeats = base.uniform(states.keys, FRAME_SKIP * states.elapsed + k) < self._sticky
                before = pressed[:, k] = np.where(repeats, before, chosen)
        return pressed

    def _assign(self, snapshots: np.ndarray) -> list[int] | None:
        """Returns a slot for every state, which holds it; None for too many states."""
        if len(snapshots) > self.preferred_batch_size:
            return None
        holders = {id(held): slot for slot, held in enumerate(self._held) if held is not None}
        slots = [holders.pop(id(snapshot), -1) for snapshot in snapshots]
        taken = set(slots)
        free = iter([slot for slot in range(len(self._slots)) if slot not in taken])
        for i, slot in enumerate(slots):
            if slot < 0:
                unused = next(free, None)
                slots[i] = self._new_slot() if unused is None else unused
                self._held[slots[i]] = None
                self._slots[slots[i]].restoreState(snapshots[i])
        return slots

    def _new_slot(self) -> int:
        emulator = ale_py.ALEInterface()
        emulator.setFloat("repeat_action_probability", 0.0)  # see `_pressed`
        emulator.setInt("max_num_frames_per_episode", 0)  # the cap is this class's
        emulator.setInt("random_seed", 0)
        emulator.loadROM(self._rom)
        emulator.act(0)  # see __init__
        self._slots.append(emulator)
        self._held.append(None)
        return len(self._slots) - 1

    def _resize(self, screen: np.ndarray) -> np.ndarray:
        return cv2.resize(screen, self._size, interpolation=cv2.INTER_AREA)


def _joystick() -> np.ndarray:
    """Returns ALE's actions by (horizontal, vertical, fire), [3, 3, 2]."""
    actions = np.empty((3, 3, 2), np.int64)
    for h, v, fire in np.ndindex(3, 3, 2):
        name = _VERTICAL[v] + _HORIZONTAL[h] + ("FIRE" if fire else "")
        actions[h, v, fire] = getattr(ale_py.Action, name or "NOOP").value
    return actions


def _objects(items: list) -> np.ndarray:
    """Returns a [B] array of objects."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
cv2.setNumThreads(1)
