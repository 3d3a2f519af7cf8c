"""Conditions and a model become images."""
