"""A photo becomes conditions; nothing here knows of diffusion."""
