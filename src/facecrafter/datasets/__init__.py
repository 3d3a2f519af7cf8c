"""Face data sets that are balanced by construction: planned, made, audited, and described by a card."""
