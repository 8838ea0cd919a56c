"""Keras networks and TFP distributions as functions of a flat parameter vector."""
