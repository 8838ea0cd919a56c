"""Verdicts follow the data, both ways, and none comes from missing data."""

import csv
import json

import pytest

from experiments import claims, common_random_numbers, surrogate_variance


def _write(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval=0)
        writer.writeheader()
        writer.writerows(rows)


def _theory(results, *, kl, change, violation):
    (results / "theory").mkdir(parents=True)
    method = {"first_max_kl": kl, "least_change_of_return": change}
    record = {"process": {"Algorithm 1 (eq. 10)": method}}
    (results / "theory" / "claims.json").write_text(json.dumps(record))
    rows = [{"equation": "eq. 8", "largest_violation": violation}]
    _write(results / "theory" / "violations.csv", ["equation", "largest_violation"], rows)


def _interval(name, value):
    return {name: value, f"{name}_low": 0.9 * value, f"{name}_high": 1.1 * value}


def test_no_data_no_verdict(tmp_path):
    for verdict in claims.judge(tmp_path).values():
        assert verdict.verdict == claims.UNKNOWN
        assert "is missing" in verdict.estimate


@pytest.mark.parametrize(
    ("numbers", "c8", "c11"),
    [
        ({"kl": 1e-6, "change": 0.0, "violation": 1e-13}, claims.HOLDS, claims.HOLDS),
        ({"kl": 5e-3, "change": 0.0, "violation": 1e-13}, claims.FAILS, claims.HOLDS),
        ({"kl": 1e-6, "change": -1e-3, "violation": 1e-13}, claims.HOLDS, claims.FAILS),
        ({"kl": 1e-6, "change": 0.0, "violation": 1e-3}, claims.HOLDS, claims.FAILS),
    ],
)
def test_theory_claims(tmp_path, numbers, c8, c11):
    _theory(tmp_path, **numbers)
    verdicts = claims.judge(tmp_path)
    assert (verdicts["C8"].verdict, verdicts["C11"].verdict) == (c8, c11)


@pytest.mark.parametrize(
    ("shared", "snr", "verdict"),
    [(1.0, 2.0, claims.HOLDS), (9.5, 2.0, claims.FAILS), (1.0, 0.1, claims.FAILS)],
)
def test_common_random_numbers_claim(tmp_path, shared, snr, verdict):
    rows = []
    for seconds in (0.01, 0.02):
        for common in (True, False):
            row = {"task": "t", "branch_seconds": 1, "seconds_per_step": seconds}
            row |= {"common_random_numbers": common, **_interval("variance", 10.0)}
            if common:
                row |= _interval("variance", shared)
            rows.append(row | _interval("snr", snr if seconds == 0.01 else 1.0))
    columns = common_random_numbers.COLUMNS
    _write(tmp_path / "vine" / "common_random_numbers.csv", columns, rows)
    assert claims.judge(tmp_path)["C9"].verdict == verdict


@pytest.mark.parametrize(("vine", "verdict"), [(1.0, claims.HOLDS), (9.5, claims.FAILS)])
def test_surrogate_variance_claim(tmp_path, vine, verdict):
    rows = [
        {"task": "t", "policy_iterations": 0, "estimator": name, **_interval("variance", value)}
        for name, value in (("vine", vine), ("single path, same Q-values", 10.0))
    ]
    _write(tmp_path / "vine" / "surrogate_variance.csv", surrogate_variance.COLUMNS, rows)
    assert claims.judge(tmp_path)["C10"].verdict == verdict
