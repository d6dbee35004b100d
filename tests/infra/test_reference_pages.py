"""The pages that are written from the code say what the code says, and the links in error answers lead to them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chassis.config import load, variable
from chassis.errors import DOCUMENTATION_URL, ErrorCode
from dotenv import dotenv_values
from holdfast_local.settings import PROJECT
from orders.settings import OrdersSettings

PAGES = ["docs/reference/errors.md", "docs/reference/configuration.md", "docs/reference/metrics.md", ".env.example"]


def test_the_generated_pages_are_current() -> None:
    check = subprocess.run(
        [sys.executable, PROJECT / "docs" / "generate.py", "--check"], capture_output=True, text=True, check=False
    )
    assert (check.returncode, check.stderr) == (0, "")


@pytest.mark.parametrize("code", ErrorCode, ids=lambda code: code.name)
def test_the_documentation_url_of_a_code_leads_to_its_section(code: ErrorCode) -> None:
    url, _, anchor = code.documentation_url().partition("#")
    assert url == DOCUMENTATION_URL
    page = PROJECT / url.partition("/blob/main/")[2]
    headings = [line.removeprefix("## ") for line in page.read_text().splitlines() if line.startswith("## ")]
    # GitHub's anchor of a heading is its text in lower case.
    assert [heading for heading in headings if heading.lower() == anchor] == [code.name]


def test_no_page_names_a_folder_of_the_machine_it_was_written_on() -> None:
    for page in PAGES:
        assert str(PROJECT) not in (PROJECT / page).read_text()


def test_a_copy_of_the_example_changes_nothing() -> None:
    assert dotenv_values(PROJECT / ".env.example") == {}


def test_every_variable_of_the_example_is_one_and_has_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith("HOLDFAST_"):
            monkeypatch.delenv(name)
    required = [
        ("database.name", "orders"),
        ("database.user", "app"),
        ("database.password", "x"),
        ("payments.base_url", "http://payments"),
        ("payments.token_secret", "x" * 32),
    ]
    options = [f"{name}={value}" for name, value in required]
    monkeypatch.chdir(tmp_path)
    without = load(OrdersSettings, options)
    example = (PROJECT / ".env.example").read_text()
    given = [line[1:] for line in example.splitlines() if line.startswith("#HOLDFAST_") and not line.endswith("=")]
    assert f"{variable('database.pool_size')}=10" in given
    (tmp_path / ".env").write_text("\n".join(given))
    assert load(OrdersSettings, options) == without
