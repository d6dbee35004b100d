"""A job as a service declares it: the class of its payload, with options that say how the job runs."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """How a job runs. Times are in seconds. `backoff_base` and `backoff_cap` default to the worker's settings.

    Jobs of a higher `priority` run first, except that one claim in four takes the jobs that have been due longest.
    `unique` names the fields of the payload that form the job's deduplication key.
    """

    name: str
    version: int = 1
    queue: str = "default"
    priority: int = 0
    max_attempts: int = 10
    time_limit: float = 30.0
    backoff_base: float | None = None
    backoff_cap: float | None = None
    unique: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.time_limit <= 0 or not -100 <= self.priority <= 100:  # noqa: PLR2004
            raise ValueError(
                f"{self.name}: max_attempts must be at least 1, time_limit above 0, priority from -100 to 100"
            )


class JobPayload(BaseModel):
    """The data of a job: ids rather than objects, since the job runs later and then reads the current state.

    The job's options are keywords of the class:
    `class RequestPayment(JobPayload, job="request_payment", unique=("order_id",))`.

    New code must be able to read the jobs that already wait in the queue. A change of the fields that makes waiting
    jobs invalid needs a new `version`. The class and the handler of the old version stay until no job of that version
    is left. A job whose version has no handler becomes a dead letter with that reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    options: ClassVar[JobOptions]

    def __init_subclass__(cls, *, job: str, **options: Any) -> None:
        cls.options = JobOptions(name=job, **options)

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        if unknown := set(cls.options.unique) - cls.model_fields.keys():
            raise ValueError(f"{cls.__name__}: `unique` names unknown fields: {', '.join(sorted(unknown))}")

    @property
    def unique_key(self) -> str | None:
        """The deduplication key: at most one job with this name and key waits. A key of None allows duplicates."""
        return ":".join(str(getattr(self, name)) for name in self.options.unique) or None
