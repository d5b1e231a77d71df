"""Training losses as functions."""
