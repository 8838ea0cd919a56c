"""CEM and CMA-ES on problems with known answers, and as maps of states."""

import cmaes
import numpy as np
import pytest

from trpo_repro.algorithms import cem, cma
from trpo_repro.runs import checkpoint

CEM = cem.CrossEntropyMethod(population=50)
CMA = cma.CovarianceMatrixAdaptation(population=20)


def _sphere(x):
    return -((x - 1.0) ** 2).sum(axis=1)


def _rosenbrock(x):
    return -(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2).sum(axis=1)


def _search(method, function, size, updates):
    state = method.initial_state(np.zeros(size))
    for i in range(updates):
        candidates, state = method.ask(state, np.random.default_rng(i))
        state = method.tell(state, candidates, function(candidates))
    return method.mean(state)


@pytest.mark.parametrize(("method", "tolerance"), [(CEM, 0.02), (CMA, 1e-4)], ids=["cem", "cma"])
def test_sphere(method, tolerance):
    """After 80 updates; CEM's noise vanishes at the 50th, and the elite's scatter is left."""
    np.testing.assert_allclose(_search(method, _sphere, 6, 80), 1.0, atol=tolerance)


def test_cma_follows_rosenbrocks_valley():
    np.testing.assert_allclose(_search(CMA, _rosenbrock, 4, 250), 1.0, atol=1e-4)


def test_cem_climbs_rosenbrock_but_does_not_follow_its_valley():
    """Independent normals cannot turn with the valley: CEM ends on its floor (value above −5 at
    values of −400 nearby), short of the maximum at 1."""
    reached = _search(CEM, _rosenbrock, 4, 250)
    assert _rosenbrock(reached[None])[0] > -5
    assert np.abs(reached - 1).max() > 0.1


def test_cma_beyond_500_parameters_has_a_diagonal_covariance(caplog):
    with caplog.at_level("INFO", logger="absl"):
        state = CMA.initial_state(np.zeros(501))
        CMA.initial_state(np.zeros(500))
    said = [record.getMessage() for record in caplog.records]
    assert "diagonal covariance of 501 parameters" in said[0]
    assert "full covariance of 500 parameters" in said[1]
    assert sum(array.nbytes for array in state.values()) < 500**2 * 8 / 4  # no matrix in it


def test_cems_noise_decays_as_its_papers():
    """Z_t = max(5 − t / 10, 0) with an initial variance of 100: Szita and Lőrincz 2006."""
    method = cem.CrossEntropyMethod(population=10, search_deviation=10.0)
    state = method.initial_state(np.zeros(3))
    np.testing.assert_array_equal(state["deviation"] ** 2, 100.0)
    same = np.ones((10, 3))  # an elite without variance leaves the noise alone
    for t in range(60):
        state = method.tell(state, same, np.zeros(10))
        np.testing.assert_allclose(state["deviation"] ** 2, max(5 - t / 10, 0), atol=1e-12)


def test_cem_fits_its_elite():
    method = cem.CrossEntropyMethod(population=10, elite_fraction=0.3, noise=0.0)
    candidates = np.random.default_rng(0).standard_normal((10, 2))
    values = np.array([0, 9, 1, 8, 2, 7, 3, 4, 5, 6.0])
    state = method.tell(method.initial_state(np.zeros(2)), candidates, values)
    np.testing.assert_allclose(state["mean"], candidates[[1, 3, 5]].mean(axis=0))
    np.testing.assert_allclose(state["deviation"], candidates[[1, 3, 5]].std(axis=0))


@pytest.mark.parametrize("method", [CEM, CMA], ids=["cem", "cma"])
def test_states_are_values(method, tmp_path):
    """Equal states and generators give equal candidates, after a checkpoint too, whatever global
    random state there is."""
    state = method.initial_state(np.zeros(5))
    for i in range(3):
        np.random.seed(i)  # noqa: NPY002
        candidates, asked = method.ask(state, np.random.default_rng(i))
        checkpoint.save(tmp_path, i, state)
        np.random.seed(i + 7)  # noqa: NPY002
        again, _ = method.ask(checkpoint.load_latest(tmp_path), np.random.default_rng(i))
        np.testing.assert_array_equal(candidates, again)
        state = method.tell(asked, candidates, _sphere(candidates))


@pytest.mark.parametrize("size", [5, 501])
def test_cma_is_its_packages_search(size):
    """Arrays between the calls change nothing of a search that is one object all along, but for
    rounding (1e-9 after ten updates): of the covariance the package saves one triangle."""
    kind = cmaes.CMA if size == 5 else cmaes.SepCMA
    search = kind(mean=np.zeros(size), sigma=1.0, population_size=20)
    state = CMA.initial_state(np.zeros(size))
    for i in range(10):
        search.reseed_rng(int(np.random.default_rng(i).integers(2**32)))
        theirs = np.stack([search.ask() for _ in range(20)])
        candidates, state = CMA.ask(state, np.random.default_rng(i))
        np.testing.assert_allclose(candidates, theirs, rtol=0, atol=1e-9)
        search.tell([(x, -value) for x, value in zip(theirs, _sphere(theirs), strict=True)])
        state = CMA.tell(state, candidates, _sphere(candidates))
    np.testing.assert_allclose(CMA.mean(state), search.mean, rtol=0, atol=1e-9)
