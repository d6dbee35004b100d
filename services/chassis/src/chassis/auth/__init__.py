"""Authentication of callers: clients by their API keys, services by the tokens that they sign.

Read `authenticator` first: from a header to a principal. Then `api_keys` and `service_tokens`: how each kind is
checked. `key_administration` is for the command line, which adds and revokes keys.
"""

from chassis.auth.authenticator import Authenticator, Principal

__all__ = ["Authenticator", "Principal"]
