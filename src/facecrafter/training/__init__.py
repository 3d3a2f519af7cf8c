"""Stages, losses and the loop that runs them."""
