"""Judges images, with other networks than training used."""
