"""The HTTP API, the durable queue and the worker process. Names no model."""
