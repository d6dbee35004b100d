"""What the runbooks tell somebody to run works on a running platform."""

import pytest
from runbooks import blocks, commands, pages
from story import Seen

EXPRESSIONS = sorted({line for text in pages().values() for line in blocks("promql", text)})


@pytest.mark.timeout(900)  # the first one waits for the story
@pytest.mark.parametrize("command", commands())
async def test_a_command_of_a_runbook_works(seen: Seen, command: str) -> None:
    code, output = seen.answers[command]
    assert code == 0, output


@pytest.mark.timeout(900)
@pytest.mark.parametrize("expression", EXPRESSIONS)
async def test_an_expression_of_a_runbook_is_understood(seen: Seen, expression: str) -> None:
    await seen.series(expression)
