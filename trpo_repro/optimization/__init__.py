"""Optimization of callables over flat parameter vectors."""
