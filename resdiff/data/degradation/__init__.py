"""Degradations: how low-resolution training images are made from photographs, on tensors and on the device."""
