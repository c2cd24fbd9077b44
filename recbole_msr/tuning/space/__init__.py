"""Search spaces: from a file to sampled settings, and back."""
