"""Networks that read faces: identity, landmarks, expression and emotion."""
