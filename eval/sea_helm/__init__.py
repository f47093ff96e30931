"""SEA-HELM: its prompts and data read from the benchmark itself, its scores computed as its release computes them."""
