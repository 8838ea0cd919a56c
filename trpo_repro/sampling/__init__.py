"""Samplers: pure functions of (policy parameters, environment states, key)."""
