"""Texts of the Stable-Diffusion families: how prompts are joined, weighted and encoded."""
