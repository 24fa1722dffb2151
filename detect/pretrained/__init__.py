"""Bundled checkpoints, with a card for each."""
