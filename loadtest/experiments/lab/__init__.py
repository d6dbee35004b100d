"""What the experiments share: load, servers and processes, results, charts."""
