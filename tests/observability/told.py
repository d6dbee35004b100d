"""How many expressions had results, for the last lines of a run."""

with_results: list[str] = []
without: list[str] = []
