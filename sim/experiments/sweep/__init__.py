"""A scenario over a grid of settings."""
