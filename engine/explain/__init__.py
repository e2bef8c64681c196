"""Explanations: class activation maps in the geometry of the original image."""
