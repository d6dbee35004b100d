"""Code that exists only for speed. Each file is named for the code that it replaces.

docs/reference/performance.md lists the CPU time that each file saves and the modules that use the file. Read
`fastapi_solver` first, since this file saves the most CPU time.
"""
