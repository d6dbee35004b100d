"""Code that exists for speed alone. Each file is named for what it replaces, and is plugged in at one place.

docs/reference/performance.md has what each file saves. Read `fastapi_solver` first; it saves most.
"""
