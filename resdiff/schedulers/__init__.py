"""Thin diffusers schedulers over `resdiff.diffusion`."""
