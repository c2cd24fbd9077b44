"""Export finished runs for other programs."""
