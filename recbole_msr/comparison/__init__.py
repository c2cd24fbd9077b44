"""Compare models on equal terms."""
