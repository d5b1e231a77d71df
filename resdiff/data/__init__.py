"""Training data: photos in memory and what is drawn from them."""
