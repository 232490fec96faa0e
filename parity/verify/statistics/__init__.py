"""The numbers behind a verdict: divergences, bounds, tests. Plain numpy and scipy; knows nothing of models or sides."""
