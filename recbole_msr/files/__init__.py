"""Read and write files: YAML, JSON, whole files or none, names and paths that can be used."""
