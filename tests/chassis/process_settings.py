"""Settings that a test gives to a process of its own, in its environment."""

import os

from chassis.config.settings import DatabaseSettings, RedisSettings
from pydantic import SecretStr, TypeAdapter


def to_environment(database: DatabaseSettings, redis: RedisSettings) -> dict[str, str]:
    assert redis.password
    return {
        "PATH": os.environ["PATH"],
        "DATABASE": database.model_dump_json(exclude={"password", "migration_password"}),
        "DATABASE_PASSWORD": database.password.get_secret_value(),
        "REDIS": redis.model_dump_json(exclude={"password"}),
        "REDIS_PASSWORD": redis.password.get_secret_value(),
    }


def from_environment[S](kind: type[S], name: str) -> S:
    adapter = TypeAdapter(kind)
    fields = TypeAdapter(dict[str, object]).validate_json(os.environ[name])
    return adapter.validate_python({**fields, "password": SecretStr(os.environ[f"{name}_PASSWORD"])})
