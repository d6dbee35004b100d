"""Calls to other services and to URLs that customers choose.

Read `http_client` first: it puts fallback, retry, breaker, bulkhead and time-out around a call. Then read `response`,
`exchange` (one request over aiohttp) and `bulkhead`. `ssrf` keeps requests to customers' URLs out of private networks.

A service's worker imports `HttpDependency` from `chassis.calls.http_client`. An API imports `chassis.calls.ssrf`, and
this import runs this file, too. The file re-exports no names, so that an API does not load aiohttp.
"""
