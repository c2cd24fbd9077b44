"""What this package costs beside RecBole: `python -m benchmarks`. Method and figures: docs/performance.md."""
