"""A process of each kind, put together from the other rooms.

Read `api` first, then `worker`, then `cli`. `pools` has the pools that an API and a worker both open.
"""
