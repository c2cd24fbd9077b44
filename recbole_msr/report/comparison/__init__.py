"""Tables and pages of comparisons."""
