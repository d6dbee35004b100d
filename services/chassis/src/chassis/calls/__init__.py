"""Calls to other services. Read `http_client` first: it puts retries, breaker, bulkhead and deadline around a call."""
