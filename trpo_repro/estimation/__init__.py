"""Returns, advantages, value functions and surrogate objectives."""
