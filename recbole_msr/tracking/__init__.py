"""Weights & Biases keeps the record: a run a training, written to disk here and uploaded from another process."""
