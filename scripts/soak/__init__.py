"""The soak: the real server under load while its processes and its database are killed (queue.md §3.2)."""
