"""Tables of any size into packed tables on disk, in two passes, holding a bounded part of them in memory."""
