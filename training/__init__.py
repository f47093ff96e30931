"""Trains tokenizers and checkpoints."""
