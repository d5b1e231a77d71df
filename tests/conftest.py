"""Settings of the whole suite."""

import torch

# The suite's tensors are small: a second thread costs more than it gives, above all beside other work.
torch.set_num_threads(1)
