"""Policy optimization algorithms."""
