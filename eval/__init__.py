"""Scores checkpoints, gates them against their baselines and promotes them."""
