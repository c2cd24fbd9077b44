"""Run a training, keep its folder, open it again, predict with it and explain it."""
