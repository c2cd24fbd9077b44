"""Tables and pages of searches."""
