"""Several trainings at once in one process."""
