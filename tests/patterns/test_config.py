"""Six layers in order, validated as a whole; whatever is wrong is said at once, with the variable to fix."""

from pathlib import Path
from typing import ClassVar

import pytest
from chassis.config import Explained, config_hash, explain, load, load_database, load_log, settings_of, variable
from chassis.config.settings import ExternalDependencySettings, Group, ServiceSettings
from chassis.errors import ConfigurationError
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

SHARED, PEPPER = "s" * 32, "p" * 32
EDGES = '{"orders": {"shop": 1}}'


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "shop"
    scopes: ClassVar[frozenset[str]] = frozenset({"goods:read"})

    supplier: ExternalDependencySettings


class Layers:
    """The six layers of one process: files in a folder, variables, and options for `load`."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._patch = patch
        self._secrets = folder / "secrets"
        self._secrets.mkdir()
        self.variables(HOLDFAST_SECRETS_DIR=str(self._secrets))

    def common_file(self, text: str) -> None:
        self._file("HOLDFAST_COMMON_FILE", "common.yaml", text)

    def service_file(self, text: str) -> None:
        self._file("HOLDFAST_SERVICE_FILE", "service.yaml", text)

    def dotenv(self, text: str, encoding: str = "utf-8") -> None:
        (self._folder / ".env").write_text(text, encoding)

    def variables(self, **variables: str) -> None:
        for name, text in variables.items():
            self._patch.setenv(name, text)

    def secret(self, name: str, text: str) -> Path:
        path = self._secrets / name
        path.write_text(text)
        return path

    def _file(self, location: str, name: str, text: str) -> None:
        (self._folder / name).write_text(text)
        self.variables(**{location: str(self._folder / name)})


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layers:
    """Everything that has no default is set; nothing else is."""
    monkeypatch.chdir(tmp_path)
    found = Layers(tmp_path, monkeypatch)
    found.service_file("database: {name: shop, user: shop_app}\nsupplier: {base_url: 'http://supplier'}\n")
    found.secret("database__password", "from-a-file\n")
    found.secret("supplier__api_key", "key-of-supplier")
    return found


def problems(options: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigurationError) as invalid:
        load(Settings, options)
    return list(invalid.value.problems)


def explained(name: str, options: tuple[str, ...] = ()) -> Explained:
    (found,) = (setting for setting in explain(Settings, options) if setting.name == name)
    return found


def test_each_layer_wins_over_those_below_it(layers: Layers) -> None:
    assert load(Settings).http.port == 8000
    layers.common_file("http: {port: 8001}")
    assert load(Settings).http.port == 8001
    layers.service_file(
        "http: {port: 8002}\ndatabase: {name: shop, user: shop_app}\nsupplier: {base_url: 'http://supplier'}"
    )
    assert load(Settings).http.port == 8002
    layers.dotenv("HOLDFAST_HTTP__PORT=8003")
    assert load(Settings).http.port == 8003
    layers.variables(HOLDFAST_HTTP__PORT="8004")
    assert load(Settings).http.port == 8004
    layers.secret("http__port", "8005")
    assert load(Settings).http.port == 8005
    assert load(Settings, ["http.port=8006"]).http.port == 8006

    assert explained("http.port", ("http.port=8006",)) == Explained(
        "http.port",
        "8006",
        "command line",
        ("secret files", "environment", ".env", "service file", "common file"),
    )


def test_a_layer_changes_what_it_names_and_nothing_beside_it(layers: Layers) -> None:
    layers.common_file("database: {pool_size: 17}")
    layers.variables(HOLDFAST_DATABASE__PORT="5433", HOLDFAST_SUPPLIER__RETRY__MAX_ATTEMPTS="2")
    settings = load(Settings)
    assert (settings.database.name, settings.database.pool_size, settings.database.port) == ("shop", 17, 5433)
    assert settings.supplier.retry.max_attempts == 2
    assert settings.supplier.base_url == "http://supplier"


def test_every_problem_of_every_layer_is_told_at_once_with_its_variable(layers: Layers) -> None:
    layers.common_file("http: {prot: 1}")
    layers.service_file("database: {user: shop_app, lock_timeout: 9}\nlog: {level: LOUD}")
    layers.variables(HOLDFAST_HTTP__PORT="http", HOLDFAST_HTPP__PORT="8001", HOLDFAST_AUTH__KEYS="{not json")
    layers.secret("databse__password", "x")
    found = problems(("cache.ttl=0", "cache.ttl"))
    assert sorted(problem.partition(":")[0].rpartition("/")[2] for problem in found) == [
        "--set cache.ttl",
        "HOLDFAST_AUTH__KEYS",
        "HOLDFAST_CACHE__TTL",
        "HOLDFAST_DATABASE__LOCK_TIMEOUT",
        "HOLDFAST_DATABASE__NAME",
        "HOLDFAST_HTPP__PORT",
        "HOLDFAST_HTTP__PORT",
        "HOLDFAST_HTTP__PROT",
        "HOLDFAST_LOG__LEVEL",
        "HOLDFAST_SUPPLIER__BASE_URL",
        "databse__password",
    ]
    assert "HOLDFAST_LOG__LEVEL: Input should be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'" in "".join(found)


def test_a_problem_names_the_layer_that_the_value_came_from(layers: Layers) -> None:
    layers.common_file("http: {port: 8001}")
    layers.variables(HOLDFAST_HTTP__PORT="70000")
    (problem,) = problems()
    assert problem.startswith("HOLDFAST_HTTP__PORT: ")
    assert problem.endswith("(from: environment)")


def test_a_group_that_is_missing_is_told_setting_by_setting(layers: Layers) -> None:
    layers.service_file("{}")
    assert problems() == [
        "HOLDFAST_DATABASE__NAME: has no value",
        "HOLDFAST_DATABASE__USER: has no value",
        "HOLDFAST_SUPPLIER__BASE_URL: has no value",
    ]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("environment", "HOLDFAST_HTPP__PORT: no such setting; did you mean HOLDFAST_HTTP__PORT?"),
        (".env", "HOLDFAST_HTPP__PORT: no such setting; did you mean HOLDFAST_HTTP__PORT?"),
        ("group in a file", "HOLDFAST_HTPP: no such setting; did you mean HOLDFAST_HTTP? (from: common file)"),
        ("file", "HOLDFAST_HTTP__PROT: no such setting; did you mean HOLDFAST_HTTP__PORT? (from: common file)"),
        ("secret", "htpp__port: no such setting; did you mean http__port?"),
        ("option", "--set htpp.port: no such setting; did you mean http.port?"),
    ],
)
def test_a_misspelt_name_is_an_error_that_names_its_nearest_neighbour(
    layers: Layers, layer: str, expected: str
) -> None:
    match layer:
        case "environment":
            layers.variables(HOLDFAST_HTPP__PORT="8001")
        case ".env":
            layers.dotenv("HOLDFAST_HTPP__PORT=8001")
        case "file":
            layers.common_file("http: {prot: 8001}")
        case "group in a file":
            layers.common_file("htpp: {port: 8001}")
        case "secret":
            layers.secret("htpp__port", "8001")
    (problem,) = problems(("htpp.port=8001",) if layer == "option" else ())
    assert problem.endswith(expected)


def test_pydantic_settings_by_itself_ignores_a_misspelt_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version that goes wrong: forbidding extras says nothing of variables, and the default is used instead."""

    class Plain(BaseSettings):
        model_config = SettingsConfigDict(env_prefix="PLAIN_", extra="forbid")

        pool_timeout: float = 30.0

    monkeypatch.setenv("PLAIN_POOL_TIMOUT", "1")
    assert Plain().pool_timeout == 30.0


def test_rules_across_settings_are_checked(layers: Layers) -> None:
    layers.variables(HOLDFAST_DATABASE__LOCK_TIMEOUT="6", HOLDFAST_DATABASE__STATEMENT_TIMEOUT="5")
    assert problems() == [
        (
            "HOLDFAST_DATABASE__LOCK_TIMEOUT: database.lock_timeout must be below database.statement_timeout, "
            "or it never takes effect (database.lock_timeout = 6.0, database.statement_timeout = 5.0) "
            "(from: environment)"
        )
    ]


def test_settings_cannot_be_changed_and_take_no_unknown_name(layers: Layers) -> None:
    settings = load(Settings)
    with pytest.raises(ValidationError, match="frozen"):
        settings.http.port = 1  # type: ignore[misc]  # what a careless caller would do
    with pytest.raises(ValidationError, match="frozen"):
        settings.environment = "prod"  # type: ignore[misc]
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Group):
            assert field.annotation.model_config.get("extra") == "forbid", name


def test_secrets_come_from_files_and_are_shown_by_nobody(layers: Layers) -> None:
    layers.secret("auth__service_secrets", f'{{"orders": ["{SHARED}"]}}')
    layers.secret("auth__peppers", f'["{PEPPER}"]')
    layers.variables(HOLDFAST_AUTH__SERVICE_SCOPES='{"orders": ["goods:read"]}', HOLDFAST_RATE_LIMIT__EDGES=EDGES)
    settings = load(Settings)
    assert settings.database.password.get_secret_value() == "from-a-file"
    assert settings.auth.service_secrets == {"orders": (SecretStr(SHARED),)}
    shown = f"{settings!r} {settings} {explain(Settings)}"
    for secret in ("from-a-file", "key-of-supplier", SHARED, PEPPER):
        assert secret not in shown
    assert explained("database.password").value.startswith("secret:")


def test_the_same_secret_has_the_same_fingerprint_and_another_one_another(layers: Layers) -> None:
    first = explained("database.password").value
    assert explained("database.password").value == first
    layers.secret("database__password", "another")
    assert explained("database.password").value != first


def test_a_wrong_secret_is_not_repeated_in_the_problem(layers: Layers) -> None:
    layers.secret("auth__peppers", '["hunter2"]')
    (problem,) = problems()
    assert (
        problem
        == "HOLDFAST_AUTH__PEPPERS: 0: Value should have at least 32 items after validation, not 7 (from: secret files)"
    )


def test_what_the_kubelet_keeps_beside_secret_files_is_no_setting(layers: Layers) -> None:
    layers.secret("..data", "a link in a cluster")
    load(Settings)


def test_lists_objects_and_single_entries_may_be_given_as_text(layers: Layers) -> None:
    layers.variables(HOLDFAST_RATE_LIMIT__TIERS='{"gold": 2}', HOLDFAST_RATE_LIMIT__TIERS__SILVER="1.5")
    assert load(Settings).rate_limit.tiers == {"gold": 2, "silver": 1.5}
    assert load(Settings, ['rate_limit.tiers={"gold": 3}']).rate_limit.tiers == {"gold": 3, "silver": 1.5}


def test_variables_of_other_programs_are_left_alone(layers: Layers) -> None:
    layers.dotenv("LOCAL_PORT_OFFSET=100\nPATH=/nowhere\n")
    layers.variables(HOLDFAS="x", LOCAL_STATE="y")
    load(Settings)


def test_a_file_that_was_asked_for_must_be_there_and_readable(layers: Layers, tmp_path: Path) -> None:
    layers.variables(HOLDFAST_COMMON_FILE=str(tmp_path / "none.yaml"), HOLDFAST_SECRETS_DIR=str(tmp_path / "none"))
    assert [problem.partition(":")[0] for problem in problems()][:2] == ["HOLDFAST_COMMON_FILE", "HOLDFAST_SECRETS_DIR"]
    layers.common_file("http: {port: 8001\npassword: hunter2")
    (problem, *_) = problems()
    assert problem.startswith("HOLDFAST_COMMON_FILE: ")
    assert "line 2" in problem
    assert "hunter2" not in problem
    layers.common_file("- a\n- list")
    assert "must hold names and values" in problems()[0]


@pytest.mark.parametrize("text", ["environment: 2026-13-01", "environment: 0b_", f"log: {'[' * 2000}{']' * 2000}"])
def test_a_file_that_cannot_be_read_is_a_problem_that_is_told(layers: Layers, text: str) -> None:
    layers.common_file(text)
    (problem,) = problems()
    assert problem.startswith("HOLDFAST_COMMON_FILE: ")
    assert problem.endswith(("cannot be read: ValueError", "cannot be read: RecursionError"))


def test_a_dotenv_file_in_another_encoding_is_a_problem_beside_the_others(layers: Layers) -> None:
    layers.dotenv("HOLDFAST_HTTP__PORT=8001 # öffentlich", encoding="latin-1")
    unreadable, wrong = problems(("http.port=none",))
    assert unreadable == ".env cannot be read: UnicodeDecodeError"
    assert wrong.startswith("HOLDFAST_HTTP__PORT: ")


def test_a_broken_line_of_dotenv_is_not_left_out_silently(layers: Layers) -> None:
    layers.dotenv("# ours\nHOLDFAST_LOG__LEVEL='DEBUG\nHOLDFAST_HTTP__PORT=8001\n")
    (problem,) = problems()
    assert problem.startswith(".env, line 2: ")
    assert "DEBUG" not in problem


def test_a_group_that_is_no_group_is_a_problem_for_whoever_needs_only_that_group_too(layers: Layers) -> None:
    layers.variables(HOLDFAST_LOG="loud")
    with pytest.raises(ConfigurationError, match="HOLDFAST_LOG__…: Input should be a valid dictionary"):
        load_log(Settings)


def test_migrations_need_no_secret_but_that_of_the_database(layers: Layers) -> None:
    layers.service_file("database: {name: shop, user: shop_app, migration_user: owner}")
    layers.secret("database__migration_password", "of-the-owner")
    settings = load_database(Settings)
    assert settings.migration_user == "owner"
    layers.variables(HOLDFAST_DATABASE__POOL_SIZE="none")
    with pytest.raises(ConfigurationError, match="HOLDFAST_DATABASE__POOL_SIZE"):
        load_database(Settings)


def test_the_hash_tells_configurations_apart_but_not_their_secrets(layers: Layers) -> None:
    layers.variables(HOLDFAST_AUTH__SERVICE_SCOPES='{"orders": ["goods:read"]}', HOLDFAST_RATE_LIMIT__EDGES=EDGES)
    first = config_hash(load(Settings))
    assert config_hash(load(Settings, ["http.port=8000"])) == first  # the default, said aloud
    assert config_hash(load(Settings, ["http.port=8001"])) != first
    layers.secret("database__password", "rotated")
    assert config_hash(load(Settings)) == first
    layers.secret("database__next_password", "soon")  # the first step of a rotation
    layers.secret("management__token", "t" * 64)
    layers.secret("auth__peppers", f'["{PEPPER}"]')
    layers.secret("auth__service_secrets", f'{{"orders": ["{SHARED}"]}}')
    assert config_hash(load(Settings)) == first


def test_every_setting_has_a_variable_of_its_own() -> None:
    variables = [variable(name) for name in settings_of(Settings)]
    assert len(set(variables)) == len(variables)
    assert "HOLDFAST_SUPPLIER__RETRY__MAX_ATTEMPTS" in variables
