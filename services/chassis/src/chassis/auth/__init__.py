"""Authentication of callers: clients by their API keys, services by the tokens that they sign.

Read `authenticator` first: it turns a request's header into a principal. Then `api_keys` and `service_tokens`, which
check each kind of credential. With `key_administration` the command line adds and revokes keys.
"""

from chassis.auth.authenticator import Authenticator, Principal

__all__ = ["Authenticator", "Principal"]
