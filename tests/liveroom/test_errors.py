"""Refusals: one table, complete, and problem documents as RFC 9457 has them."""

import json
import re

import pytest

from liveroom.errors import TABLE, Code, ProblemError


def test_every_code_has_a_row() -> None:
    assert set(TABLE) == set(Code)


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.value)
def test_a_code_is_a_plain_word_with_an_error_status(code: Code) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code.value)
    assert code.value == code.name.lower()
    assert 400 <= TABLE[code].status <= 599
    assert TABLE[code].title
    assert not TABLE[code].title.endswith(".")


@pytest.mark.parametrize(
    ("problem", "body"),
    [
        pytest.param(
            ProblemError(Code.MUTED),
            {"type": "about:blank", "title": "You are muted in this room", "status": 403, "code": "muted"},
            id="plain",
        ),
        pytest.param(
            ProblemError(Code.SLOW_MODE, "one in 5 s", 1.23456, slow_s=5),
            {
                "type": "about:blank",
                "title": "The room is in slow mode",
                "status": 429,
                "code": "slow_mode",
                "detail": "one in 5 s",
                "retry_after_s": 1.235,
                "slow_s": 5,
            },
            id="in full",
        ),
        pytest.param(
            ProblemError(Code.RATE_USER, retry_after_s=0.0),
            {
                "type": "about:blank",
                "title": "You are sending too fast",
                "status": 429,
                "code": "rate_user",
                "retry_after_s": 0.0,
            },
            id="at once is not never",
        ),
    ],
)
def test_a_problem_says_its_code_and_what_is_known(problem: ProblemError, body: dict[str, object]) -> None:
    assert problem.body() == body
    assert problem.status == body["status"]


def test_a_detail_can_always_be_written_as_utf_8() -> None:
    problem = ProblemError(Code.TOKEN_INVALID, "role \ud800")
    assert json.dumps(problem.body(), ensure_ascii=False).encode()


def test_a_problem_as_a_log_line_names_code_and_detail_or_title() -> None:
    assert str(ProblemError(Code.FULL, "8,000 viewers")) == "full: 8,000 viewers"
    assert str(ProblemError(Code.FULL)) == "full: This gateway is full; ask the scheduler for another one"
