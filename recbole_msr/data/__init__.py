"""From files to the rows that models are trained on: readers, scenarios and labels, splits, packed tables."""
