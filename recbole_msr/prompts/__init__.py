"""Prompt knowledge: training data -> prompts -> encoder -> one matrix per level, kept on disk.

`template` and `facts` write the prompts, `encoders` turn them into vectors, `embed` does that once and survives being
killed, `store` opens the result. Opening needs NumPy and Parquet alone: no language model, no transformers.
"""
