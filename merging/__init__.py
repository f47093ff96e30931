"""Merges checkpoints."""
