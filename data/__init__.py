"""Builds corpora, mixtures and conversation sets."""
