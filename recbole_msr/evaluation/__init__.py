"""Metrics, scenario x task cells, significance tests."""
