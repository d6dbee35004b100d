"""What every process does beside its work: it starts, listens, reports its health, reloads its settings and ends.

Read `process` first, then `ending`, `health` and `background`.
"""
