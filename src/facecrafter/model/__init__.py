"""Conditions become attention; nothing here knows of photos."""
