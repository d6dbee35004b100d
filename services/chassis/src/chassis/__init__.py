"""The library that all services share: ten reliability patterns, and the parts that they need.
`services/chassis/README.md` describes its packages.
"""
