"""Judges the pictures, with other eyes than training had."""
