"""Code that exists for speed alone. Each file is named for what it replaces, and is plugged in by one line."""
