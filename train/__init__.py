"""Training: the loop and one script per published training."""
