"""The processes of a service (API, worker and command line), built from the other packages of the chassis.

Read `api` first, then `worker`, then `cli`. `pools` opens the connection pools that an API and a worker both use.
"""
