"""Conditional reads: by If-None-Match in every form it may have, who has the current bytes gets none."""

import pytest
from chassis.app.api.conditional import etag, has_current

BODY = b'{"id":"rope"}'
TAG = etag(BODY)


def test_an_etag_is_strong_and_quoted_and_changes_with_the_bytes() -> None:
    assert TAG[0] == TAG[-1] == '"'
    assert etag(BODY) == TAG
    assert etag(BODY + b" ") != TAG


@pytest.mark.parametrize(
    "fields",
    [
        [TAG],
        [f"W/{TAG}"],
        [f'"other", {TAG}'],
        [f'"with,a,comma",W/{TAG} , "other"'],
        ['"other"', TAG],
        ["*"],
        [" * "],
    ],
)
def test_who_names_the_current_tag_has_it(fields: list[str]) -> None:
    assert has_current(fields, TAG)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [""],
        ['"other"'],
        [TAG.strip('"')],
        [TAG[:-1]],
        ['"*"'],
        ["\\*"],
        [f'"other{TAG}'],
    ],
)
def test_who_does_not_name_it_gets_it(fields: list[str]) -> None:
    assert not has_current(fields, TAG)
