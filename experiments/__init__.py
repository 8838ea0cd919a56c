"""Experiment scripts: they wire the library and compute nothing themselves."""
