"""Episode returns against a loop over paths."""

import numpy as np

from trpo_repro.sampling import single_path
from trpo_repro.sampling.episodes import ended_episodes


def test_episode_returns_are_the_sums_of_their_rewards():
    """Against a loop over paths, carried returns included."""
    generator = np.random.default_rng(0)
    shape = (50, 6)
    ended = generator.random(shape) < 0.1
    truncated = ended & (generator.random(shape) < 0.3)
    elapsed = np.zeros(shape, np.int64)
    start = generator.integers(0, 9, 6)
    for b in range(6):
        count = start[b]
        for t in range(50):
            elapsed[t, b] = count
            count = 0 if ended[t, b] else count + 1
    rewards = generator.standard_normal(shape)
    running = generator.standard_normal(6)
    zeros = np.zeros((*shape, 1))
    paths = single_path.Trajectories(
        zeros, zeros, rewards, ended & ~truncated, truncated, elapsed, zeros[0]
    )
    for first_only in (False, True):
        expected, lengths, left = {}, {}, np.zeros(6)
        for b in range(6):
            total, first = running[b], True
            for t in range(50):
                total += rewards[t, b]
                if ended[t, b]:
                    if first or not first_only:
                        expected[t, b], lengths[t, b] = total, elapsed[t, b] + 1
                    total, first = 0.0, False
            left[b] = total
        episodes = ended_episodes(paths, running, first_only=first_only)
        order = sorted(expected)
        np.testing.assert_allclose(episodes.returns, [expected[k] for k in order], atol=1e-12)
        np.testing.assert_array_equal(episodes.lengths, [lengths[k] for k in order])
        np.testing.assert_allclose(episodes.running, left, atol=1e-12)
        assert episodes.count == ended.sum()
