"""Frames are stored once; what the learner gathers is what the policy saw."""

import functools

import numpy as np
import pytest

from trpo_repro import presets, training
from trpo_repro.algorithms import policy_update
from trpo_repro.environments import atari
from trpo_repro.estimation import surrogates
from trpo_repro.optimization import trust_region
from trpo_repro.policies import frames
from trpo_repro.randomness import Key
from trpo_repro.sampling import single_path, vine


@functools.cache
def _setting():
    """Pong with episodes of 7 decisions, so that several end inside a path."""
    environment = atari.Atari("pong")
    environment.max_episode_steps = 7
    policy = training.make_policy(presets.preset("paper", "pong"), environment)
    return environment, policy, policy.network.initial_parameters()


def _sample(states, steps=20, seed=0, keep=None):
    environment, policy, theta = _setting()
    return single_path.sample_trajectories(
        environment, policy, theta, Key(seed), steps=steps, states=states, keep=keep
    )


def test_rows_are_the_observations_that_the_policy_saw():
    environment, policy, theta = _setting()
    acted = []
    paths, _, _ = single_path.sample_trajectories(
        environment,
        policy,
        theta,
        Key(0),
        steps=20,
        states=3,
        normalize=lambda seen: acted.append(seen) or seen,
    )
    ends = paths.truncated.sum()
    assert ends >= 6
    rows = paths.flat_observations()
    assert isinstance(rows, frames.StackedFrames)
    np.testing.assert_array_equal(rows.stacked().reshape(20, 3, 4, 52, 40), acted)
    assert rows.frames.nbytes < 1.2 * rows.stacked().nbytes / 4


def test_a_path_goes_on_with_its_frames():
    """Two halves sampled one after the other have the rows of the states at their steps."""
    environment, _, _ = _setting()
    _, after, _ = _sample(3, steps=5)
    keep = np.ones((6, 3), bool)
    paths, _, kept = _sample(after, steps=6, seed=1, keep=keep)
    np.testing.assert_array_equal(paths.flat_observations().stacked(), environment.observe(kept))


def test_shards_side_by_side():
    first, second = _sample(2, seed=0)[0], _sample(3, seed=1)[0]
    joined = single_path.Trajectories.concatenate([first, second])
    assert joined.rewards.shape == (20, 5)
    whole = joined.flat_observations().stacked().reshape(20, 5, 4, 52, 40)
    np.testing.assert_array_equal(
        whole[:, :2].reshape(-1, 4, 52, 40), first.flat_observations().stacked()
    )
    np.testing.assert_array_equal(
        whole[:, 2:].reshape(-1, 4, 52, 40), second.flat_observations().stacked()
    )
    full = np.zeros((*joined.cut.shape, 4, 52, 40), np.uint8)
    full[joined.cut] = joined.cut_observations
    np.testing.assert_array_equal(full[:, :2][first.cut], first.cut_observations)
    np.testing.assert_array_equal(full[:, 2:][second.cut], second.cut_observations)


def test_shards_of_vine_side_by_side():
    environment, policy, theta = _setting()
    parts = [
        vine.sample_vine(
            environment,
            policy,
            theta,
            Key(0, shard=shard),
            states=2,
            trunk_length=10,
            rollout_states=6,
            rollouts_per_state=3,
            rollout_length=4,
            discount=0.9,
            proposal="uniform",
        )
        for shard in range(2)
    ]
    joined = vine.Vine.concatenate(parts)
    chosen = joined.trajectories.flat_observations()[joined.state_index].stacked()
    for i, part in enumerate(parts):
        own = part.trajectories.flat_observations()[part.state_index].stacked()
        np.testing.assert_array_equal(chosen[6 * i : 6 * i + 6], own)
        np.testing.assert_array_equal(joined.q_values[6 * i : 6 * i + 6], part.q_values)
    assert joined.branch_steps == sum(part.branch_steps for part in parts)
    assert joined.branch_steps + joined.merged_steps == 2 * 6 * 3 * 4


@pytest.mark.parametrize("rows", [2, 6, 100])
def test_branches_do_not_depend_on_how_many_run_together(monkeypatch, rows):
    environment, policy, theta = _setting()
    states = environment.initial(5, np.random.default_rng(0))
    actions = np.random.default_rng(1).integers([3, 3, 2], size=(5, 3, 3)).astype(np.int32)
    arguments = (environment, policy, theta, Key(0), states, actions)
    expected, steps, merged = vine.branch_values(*arguments, length=6, discount=0.9)
    monkeypatch.setattr(environment, "preferred_batch_size", rows)
    values, *counted = vine.branch_values(*arguments, length=6, discount=0.9)
    np.testing.assert_array_equal(values, expected)
    assert counted == [steps, merged]
    assert steps + merged == 5 * 3 * 6


@pytest.mark.parametrize(("separate", "method"), [(True, "trpo"), (False, "empirical_fim")])
def test_update_from_indices_is_the_update_from_observations(separate, method):
    """The same graph fed with frames and indices, or with the stacks themselves; chunks of 16
    rows do not divide the 60, and the sums of both are the same."""
    _, policy, theta = _setting()
    paths = _sample(3)[0]
    rows = {
        "observations": paths.flat_observations(),
        "actions": paths.actions.reshape(60, 3),
        "advantages": np.random.default_rng(0).standard_normal(60).astype(np.float32),
    }
    results = []
    for stacked in (True, False):
        update = policy_update.PolicyUpdate(
            policy,
            surrogates.ImportanceSampled(),
            trust_region.Method(**{**vars(trust_region.METHODS[method]), "damping": 0.1}),
            separate_kl_states=separate,
            stacked_frames=stacked,
            chunk_size=16,
        )
        fed = rows if stacked else {**rows, "observations": paths.flat_observations().stacked()}
        kl = {"observations": fed["observations"][10:50]} if separate else None
        results.append(update(theta, fed, np.random.default_rng(0), kl)[:2])
    (first, report), (second, other) = results
    np.testing.assert_array_equal(first, second)
    assert report["mean_kl"] == other["mean_kl"]
    assert report["outcome"] is trust_region.Outcome.ACCEPTED
