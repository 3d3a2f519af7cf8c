"""Values and geometry of faces; no networks."""
