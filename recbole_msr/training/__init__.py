"""One training: the Lightning module and its data, epochs, optimisers, checkpoints, loss weightings, fused runs."""
