"""Networks that read faces: who they are, how they look, what they express."""
