"""How a process of each kind is put together. Read `api` first, then `worker`, then `cli`."""
