"""Weights of the tasks' losses."""
