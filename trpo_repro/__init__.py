"""Trust Region Policy Optimization (Schulman et al., 2015), reproduced."""

__version__ = "0.1.0"
