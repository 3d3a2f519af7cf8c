"""The networks that generate faces, and their files."""
