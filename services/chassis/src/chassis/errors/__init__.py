"""Errors: the exceptions that code raises, and the answers that callers get for them.

Read `exceptions` first: its docstring draws the tree of all exceptions. `catalogue` has every code of an error answer.
`answers` builds the answer to one `ApiError`; `chassis.app.api` sends, logs and counts this answer. `fields` has types
of request fields that several services validate in the same way.
"""

from chassis.errors.catalogue import DOCUMENTATION_URL, ErrorCode, ErrorDetail, ErrorSpec
from chassis.errors.exceptions import (
    ApiError,
    BreakerOpen,
    BulkheadFull,
    ConfigurationError,
    DatabaseBusy,
    DatabaseUnreachable,
    DeadlineExceeded,
    DependencyError,
    DependencyFailed,
    DependencyOutcome,
    DependencyPaused,
    DependencyRejected,
    DependencyTimeout,
    DependencyUnavailable,
    HoldfastError,
    IllegalTransition,
    InvalidSignature,
    LeaseLost,
    PermanentJobError,
    PoolExhausted,
    RateLimited,
    SignatureProblem,
)

__all__ = [
    "DOCUMENTATION_URL",
    "ApiError",
    "BreakerOpen",
    "BulkheadFull",
    "ConfigurationError",
    "DatabaseBusy",
    "DatabaseUnreachable",
    "DeadlineExceeded",
    "DependencyError",
    "DependencyFailed",
    "DependencyOutcome",
    "DependencyPaused",
    "DependencyRejected",
    "DependencyTimeout",
    "DependencyUnavailable",
    "ErrorCode",
    "ErrorDetail",
    "ErrorSpec",
    "HoldfastError",
    "IllegalTransition",
    "InvalidSignature",
    "LeaseLost",
    "PermanentJobError",
    "PoolExhausted",
    "RateLimited",
    "SignatureProblem",
]
