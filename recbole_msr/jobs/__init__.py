"""Shared by searches and comparisons: worker processes, the lock of an output folder, reasons of failures."""
