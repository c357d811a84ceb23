"""Tracebacks in logs: where a failure happened, without a word that it worked on."""

import io

from liveroom.errors import ExplainedError
from liveroom.tracebacks import named, traceback_of, write_traceback

MARK = "a secret text"


def _failed() -> BaseException:
    def cause() -> None:
        raise ValueError(MARK)

    try:
        try:
            cause()
        except ValueError as error:
            raise ExceptionGroup(MARK, [KeyError(MARK), FileNotFoundError(2, "No such file", "words.txt")]) from error
    except ExceptionGroup as error:
        return error
    raise AssertionError


def test_a_traceback_has_the_frames_and_types_of_causes_and_groups_and_no_message_that_may_quote() -> None:
    text = traceback_of(_failed())
    assert MARK not in text
    assert "in cause\n" in text
    for part in ("ValueError\n", "which caused:", "ExceptionGroup", "1 of 2", "KeyError", "FileNotFoundError: ", "words.txt"):
        assert part in text


def test_an_error_that_was_met_while_another_one_was_handled_is_told_too() -> None:
    error = KeyError(MARK)
    error.__context__ = OSError(5, "Input/output error")
    text = traceback_of(error)
    assert "OSError: [Errno 5] Input/output error" in text
    assert "and then:" in text
    assert MARK not in text


def test_an_error_that_is_its_own_context_ends() -> None:
    error = ValueError(MARK)
    error.__cause__ = ValueError(MARK)
    error.__cause__.__cause__ = error
    assert traceback_of(error).count("ValueError") == 2


def test_an_answer_that_a_client_refuses_is_told_by_its_status_and_not_by_its_url() -> None:
    class RefusedError(Exception):
        status = 403

    assert named(RefusedError(f"url='ws://e/v1/live?ticket={MARK}'")).endswith("RefusedError: HTTP 403")


def test_errors_that_explain_themselves_keep_their_words() -> None:
    assert named(ExplainedError("name a room")) == "ExplainedError: name a room"
    assert named(ValueError(MARK)) == "ValueError"


def test_a_console_gets_the_same() -> None:
    out, error = io.StringIO(), _failed()
    write_traceback(out, (type(error), error, None))
    assert out.getvalue().strip() == traceback_of(error).strip()
