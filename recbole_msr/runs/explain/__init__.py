"""What a finished run has learnt between its scenarios, and for single users: numbers and texts, as plain values."""
