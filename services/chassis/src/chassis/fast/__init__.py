"""Code that exists only for speed. Each file is named for the code that it replaces.

docs/reference/performance.md lists the CPU time that each file saves and the modules that use it. Read
`fastapi_solver` first, since it saves most.
"""
