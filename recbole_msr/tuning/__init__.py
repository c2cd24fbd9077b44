"""Search of architecture and training settings."""
