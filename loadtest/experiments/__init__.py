"""The lab: one experiment per pattern, with it and without it. `make lab`, `make lab-retries`; docs/lab/README.md.

Each experiment is a package with `run(stage, results)`, which sends the same load, by the same seed, and the same fault
through each of its arms, and `draw(results)`, which makes its chart. The naive code people really write is in its own
folder, and the processes it starts are in its `service.py`.
"""

EXPERIMENTS = ("rate_limiting", "jobs", "retries", "circuit_breaker", "caching", "overload")
