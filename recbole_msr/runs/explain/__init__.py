"""Explain what a finished run has learnt between its scenarios and for single users, as plain numbers and texts."""
