"""The Open LLM Leaderboard v2: lm-eval's own tasks on offline mirrors, and the normalisation that lm-eval does not compute."""
