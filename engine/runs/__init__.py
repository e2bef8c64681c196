"""Runs: their configuration, their folder (the contract), who executes them."""
