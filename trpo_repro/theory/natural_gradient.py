"""The natural gradient, where it can be written down (Sec. 7's background, App. C).

The example has one state variable s, one action a ~ N(k s, σ), dynamics s' = s + a / 2 and
reward −s² − a²: returns, gradients and Fisher information of (k, σ) are closed forms.
"""

import dataclasses

import numpy as np

from trpo_repro.theory import mdp as mdps
from trpo_repro.theory.mdp import FiniteMDP


@dataclasses.dataclass(frozen=True)
class LinearGaussian:
    """The one-dimensional linear-quadratic problem with a Gaussian policy.

    Parameters are arrays [..., 2] of (k, σ).

    Attributes:
      drift: coefficient of s in s' = drift · s + gain · a.
      gain: coefficient of a.
      discount: γ.
      initial_variance: variance of s_0, whose mean is 0.
    """

    drift: float = 1.0
    gain: float = 0.5
    discount: float = 0.9
    initial_variance: float = 1.0

    def second_moment(self, parameters: np.ndarray) -> np.ndarray:
        """Returns M = Σ γᵗ E[s_t²], [...]; infinite where γ (drift + gain k)² ≥ 1."""
        k, sigma = np.moveaxis(np.asarray(parameters), -1, 0)
        contraction = self.discount * (self.drift + self.gain * k) ** 2
        noise = self.discount / (1 - self.discount) * (self.gain * sigma) ** 2
        stable = contraction.real < 1
        scale = np.where(stable, 1 - contraction, 1)
        return np.where(stable, (self.initial_variance + noise) / scale, np.inf)

    def expected_return(self, parameters: np.ndarray) -> np.ndarray:
        """Returns η = −(1 + k²) M − σ² / (1 − γ), [...]."""
        k, sigma = np.moveaxis(np.asarray(parameters), -1, 0)
        return -(1 + k**2) * self.second_moment(parameters) - sigma**2 / (1 - self.discount)

    def gradient(self, parameters: np.ndarray) -> np.ndarray:
        """Returns ∇η, [..., 2]."""
        k, sigma = np.moveaxis(np.asarray(parameters), -1, 0)
        gamma, moment = self.discount, self.second_moment(parameters)
        closed = self.drift + self.gain * k
        scale = 1 - gamma * closed**2
        moment_by_k = moment * 2 * gamma * closed * self.gain / scale
        moment_by_sigma = 2 * gamma / (1 - gamma) * self.gain**2 * sigma / scale
        by_k = -2 * k * moment - (1 + k**2) * moment_by_k
        by_sigma = -(1 + k**2) * moment_by_sigma - 2 * sigma / (1 - gamma)
        return np.stack([by_k, by_sigma], axis=-1)

    def fisher(self, parameters: np.ndarray) -> np.ndarray:
        """Returns E_s[F(s)] over the normalized visitation: [..., 2, 2], diagonal."""
        sigma = np.asarray(parameters)[..., 1]
        mean_square = (1 - self.discount) * self.second_moment(parameters)
        matrix = np.zeros((*sigma.shape, 2, 2))
        matrix[..., 0, 0] = mean_square / sigma**2
        matrix[..., 1, 1] = 2 / sigma**2
        return matrix

    def natural_gradient(self, parameters: np.ndarray) -> np.ndarray:
        """Returns F⁻¹∇η, [..., 2]."""
        gradient = self.gradient(parameters)
        return np.linalg.solve(self.fisher(parameters), gradient[..., None])[..., 0]


def euclidean_step(gradient: np.ndarray, radius: float) -> np.ndarray:
    """Returns argmax_s gᵀs subject to ‖s‖ ≤ radius: gradient ascent as a constrained step."""
    return radius * gradient / np.linalg.norm(gradient)


def kl_step(gradient: np.ndarray, fisher: np.ndarray, kl_limit: float) -> np.ndarray:
    """Returns argmax_s gᵀs subject to ½ sᵀFs ≤ δ: F⁻¹g sqrt(2δ / gᵀF⁻¹g) (App. C)."""
    direction = np.linalg.solve(fisher, gradient)
    return direction * np.sqrt(2 * kl_limit / (gradient @ direction))


def ascend(
    problem: LinearGaussian, start: np.ndarray, step_size: float, steps: int, *, natural: bool
) -> np.ndarray:
    """Returns [steps + 1, 2] parameters of gradient ascent with steps of one length in its norm.

    The norm is Euclidean for the vanilla gradient and F's for the natural one; σ is kept
    above 1e-3.
    """
    path = [np.asarray(start, float)]
    for _ in range(steps):
        at = path[-1]
        gradient = problem.gradient(at)
        if natural:
            step = kl_step(gradient, problem.fisher(at), 0.5 * step_size**2)
        else:
            step = euclidean_step(gradient, step_size)
        after = at + step
        path.append(np.array([after[0], max(after[1], 1e-3)]))
    return np.stack(path)


@dataclasses.dataclass(frozen=True)
class LogLinearPolicy:
    """π_θ(a|s) ∝ exp(θᵀφ(s, a)) on a finite process.

    Attributes:
      features: [S, A, P] φ.
    """

    features: np.ndarray

    def probabilities(self, theta: np.ndarray) -> np.ndarray:
        """Returns the [S, A] policy; complex θ is allowed, for derivatives."""
        return mdps.softmax(self.features @ theta)

    def scores(self, theta: np.ndarray) -> np.ndarray:
        """Returns ∇log π(a|s) = φ(s, a) − E_π φ(s, ·), [S, A, P]."""
        mean = np.einsum("sa,sap->sp", self.probabilities(theta), self.features)
        return self.features - mean[:, None]

    def gradient(self, mdp: FiniteMDP, theta: np.ndarray) -> np.ndarray:
        """Returns ∇η = Σ ρ π ∇log π A, [P] (the policy gradient theorem)."""
        policy = self.probabilities(theta)
        weights = mdps.state_visitation(mdp, policy)[:, None] * policy
        return np.einsum("sa,sap->p", weights * mdps.advantages(mdp, policy), self.scores(theta))

    def fisher(self, mdp: FiniteMDP, theta: np.ndarray) -> np.ndarray:
        """Returns Σ ρ π ∇log π ∇log πᵀ, [P, P], with the unnormalized ρ."""
        policy, scores = self.probabilities(theta), self.scores(theta)
        weights = mdps.state_visitation(mdp, policy)[:, None] * policy
        return np.einsum("sa,sap,saq->pq", weights, scores, scores)


def compatible_weights(mdp: FiniteMDP, policy: LogLinearPolicy, theta: np.ndarray) -> np.ndarray:
    """Returns the w that least-squares fits wᵀ∇log π + b(s) to Q_π under ρ π, [P].

    It equals F⁻¹∇η, and wᵀ∇log π in place of A gives the exact policy gradient (Sutton et al.,
    2000; Kakade, 2002). The b(s) are free; they are orthogonal to the scores.
    """
    probabilities, scores = policy.probabilities(theta), policy.scores(theta)
    weights = np.sqrt(mdps.state_visitation(mdp, probabilities)[:, None] * probabilities)
    offsets = np.broadcast_to(np.eye(mdp.states)[:, None], (mdp.states, mdp.actions, mdp.states))
    design = (weights[..., None] * np.concatenate([scores, offsets], axis=-1)).reshape(
        -1, scores.shape[-1] + mdp.states
    )
    target = (weights * mdps.action_values(mdp, probabilities)).ravel()
    return np.linalg.lstsq(design, target, rcond=None)[0][: scores.shape[-1]]
