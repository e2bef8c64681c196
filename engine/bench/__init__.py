"""Benchmarks a user can run on their own machine: what the README promises, measured."""
