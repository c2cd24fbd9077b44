"""Tables as they are, Parquet, CSV, Arrow or in memory, made into a dataset."""
