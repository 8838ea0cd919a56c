"""Experiment scripts: they wire the library, and hold the measurements that one script needs."""
