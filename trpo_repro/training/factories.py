"""The parts of a run, made as its configuration says."""

import dataclasses

from trpo_repro import environments, settings
from trpo_repro.algorithms import gradient_ascent, policy_update, weighted_regression
from trpo_repro.config import Config
from trpo_repro.environments import adaptor
from trpo_repro.estimation import baselines, estimators
from trpo_repro.optimization import chunks
from trpo_repro.policies import policy as policy_lib
from trpo_repro.randomness import Key, Purpose
from trpo_repro.sampling import single_path, vine, workers

PIXEL_CHUNK_SIZE = 256  # the convolutions' activations then stay in the third-level cache


def make_environment(config: Config, *, only_played: bool = False) -> environments.Environment:
    """Returns the environment of `config.task`.

    Args:
      config: configuration of the run.
      only_played: whether it is for whole episodes of a trained policy, as many at a time as are
        asked for: Gymnasium's environments are then all in this process, and are not copied.
    """
    return environments.make(
        config.task,
        threads=config.threads or None,
        screen=config.screen,
        action_set=config.action_set,
        sticky_probability=config.sticky_probability,
        env_kwargs=adaptor.parse_arguments(config.env_kwargs),
        env_processes=config.env_processes and not only_played,
        copies=config.sampler == "vine" and not only_played,
    )


def build_worker(config: Config) -> tuple[environments.Environment, policy_lib.Policy]:
    """Returns a worker's environment, on one simulator thread, and its policy."""
    environment = make_environment(dataclasses.replace(config, threads=1))
    return environment, make_policy(config, environment)


def make_policy(config: Config, environment: environments.Environment) -> policy_lib.Policy:
    """Returns the configuration's policy for an environment."""
    space = environment.observation_space
    if len(space.shape) == 3:
        for name, needed in {"baseline": "none", "normalize_observations": False}.items():
            value = getattr(config, name)
            settings.require(value == needed, name, value, f"{needed} for images")
        is_other = config.algorithm != "reps"  # whose state value is of features of few numbers
        settings.require(is_other, "algorithm", config.algorithm, "another than reps for images")
        return policy_lib.convolutional_policy(
            space,
            environment.action_space,
            seed=config.seed,
            stacked_frames=environment.frame_stack > 1,
            initial_log_std=config.initial_log_std,
        )
    settings.require(
        config.skip_inputs < space.shape[0],
        "skip_inputs",
        config.skip_inputs,
        f"less than the {space.shape[0]} observation columns of {config.task}",
    )
    return policy_lib.multilayer_perceptron_policy(
        space,
        environment.action_space,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        seed=config.seed,
        skip_inputs=config.skip_inputs,
        initial_log_std=config.initial_log_std,
    )


def make_baseline(config: Config, observation_size: int) -> baselines.Baseline | None:
    """Returns the configuration's value function, or None."""
    if config.baseline == "linear":
        return baselines.LinearBaseline(observation_size)
    if config.baseline == "network":
        return baselines.NetworkBaseline(
            observation_size,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            epochs=config.baseline_epochs,
            minibatch_size=config.baseline_minibatch,
            learning_rate=config.baseline_learning_rate,
            # Not the policy's seed: equal seeds make equal weights.
            seed=int(Key(config.seed).generator(Purpose.BASELINE_WEIGHTS).integers(2**24)),
        )
    return None


def make_sampler(
    config: Config,
    environment: environments.Environment,
    policy: policy_lib.Policy,
    baseline: baselines.Baseline | None,
) -> tuple[single_path.SinglePathSampler | vine.VineSampler, estimators.Estimator]:
    """Returns the configuration's sampler, and what makes batches of its samples."""
    if config.sampler == "vine":
        return vine.VineSampler(config, environment), estimators.VineEstimator(config, policy)
    return (
        single_path.SinglePathSampler(config),
        estimators.SinglePathEstimator(config, baseline),
    )


def make_update(
    config: Config,
    environment: environments.Environment,
    policy: policy_lib.Policy,
    estimator: estimators.Estimator,
) -> policy_update.Update:
    """Returns the update of the configuration's algorithm."""
    from_pixels = len(environment.observation_space.shape) == 3
    chunk_size = PIXEL_CHUNK_SIZE if from_pixels else chunks.CHUNK_SIZE
    if isinstance(config.method, weighted_regression.Method):
        return weighted_regression.WeightedRegression(policy, config.method, chunk_size)
    if isinstance(config.method, gradient_ascent.Method):
        return gradient_ascent.GradientAscent(policy, config.method, chunk_size=chunk_size)
    return policy_update.PolicyUpdate(
        policy,
        estimator.surrogate,
        config.method,
        separate_kl_states=estimator.separate_kl_states,
        weighted_states=config.state_weighting == "discounted",
        stacked_frames=environment.frame_stack > 1,
        chunk_size=chunk_size,
    )


def make_workers(
    config: Config, environment: environments.Environment, policy: policy_lib.Policy
) -> workers.Workers:
    """Returns what runs the sampler's shards: this process, or Ray."""
    if not config.workers:
        return workers.InProcess(environment, policy)
    useful = min(config.workers, config.shards)
    return workers.RayWorkers(build_worker, config, useful, config.ray_address)
