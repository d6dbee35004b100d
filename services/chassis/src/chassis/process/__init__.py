"""The process around a service's work: it starts, listens, reports its health, reloads its settings and ends.

Read `running` first, then `ending` and `background`; then `server` (the ports), `health` and `management` (the
management port) and `reloading`.
"""
