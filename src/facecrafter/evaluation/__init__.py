"""Judges the images, with other eyes than training had."""
