"""Authentication of callers: clients by their API keys, services by the tokens that they sign.

Read `authenticator` first: it turns a request's header into a principal. Then read `api_keys` and `service_tokens`,
which check the two kinds of credentials. The command line uses `key_administration` to add and revoke keys.
"""

from chassis.auth.authenticator import Authenticator, Principal

__all__ = ["Authenticator", "Principal"]
