"""Pure mathematics of the diffusion processes: tensors in, tensors out."""
