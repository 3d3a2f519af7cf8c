"""Conditions and a model become pictures."""
