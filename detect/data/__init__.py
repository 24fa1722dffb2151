"""Readers of data sets; every one returns records."""
