"""Image quality metrics: a function each, with its protocol named."""
