"""The ledger finds whatever went wrong, and nothing where nothing did."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.kinds import Kind
from liveroom.wire import Left, Message
from viewer.effects import Counts, Delivered, Effect, Entered, Lost, Progress, Renumbered, Told
from viewer.ledger import LATE_S, Ledger

EPOCH = 1


def gift(seq: int, rseq: int, id_: str = "") -> Delivered:
    return Delivered("r", EPOCH, Message(seq, Kind.GIFT, id_ or f"g{rseq}", "u", 1, rseq))


def late(seq: int, rseq: int) -> Delivered:
    return gift(seq, rseq)._replace(late=True)


def text(seq: int, id_: str = "") -> Delivered:
    return Delivered("r", EPOCH, Message(seq, Kind.DANMAKU, id_ or f"d{seq}", "u", 1))


def start(rseq: int = 0) -> list[Effect]:
    return [Entered("r", EPOCH, 0, rseq), Progress("r", EPOCH, rseq, first=True)]


def told(rseq: int) -> Progress:
    return Progress("r", EPOCH, rseq, first=False)


def run(*logs: list[Effect], accepted: int = 0) -> Ledger:
    ledger = Ledger()
    for number in range(1, accepted + 1):
        ledger.accepted("r", f"g{number}", 0.0, reliable=True)
    for number, log in enumerate(logs):
        for effect in log:
            ledger.observe(f"v{number}", effect)
    return ledger


CLEAN: list[Effect] = [*start(), gift(1, 1), told(1), text(2), gift(3, 2), told(2), gift(4, 3), told(3)]


def test_a_clean_run_is_clean() -> None:
    verdict = run(CLEAN, CLEAN, accepted=3).verdict(1, settled=True)
    assert verdict.is_clean
    assert str(verdict) == "accepted 3, lost 0, doubled 0"


@pytest.mark.parametrize(
    ("log", "field", "count"),
    [
        pytest.param([*start(), gift(1, 1), told(1), gift(4, 3), told(3)], "lost", 1, id="a gift did not come"),
        pytest.param([*start(), gift(1, 1), told(1), gift(3, 2), told(3)], "lost", 1, id="a header tells of more than came"),
        pytest.param([*start(), gift(1, 1), told(1)], "lost", 2, id="behind the others at the end"),
        pytest.param([*start(), gift(1, 1), Progress("r", EPOCH, 3, first=True)], "lost", 2, id="passed while away"),
        pytest.param([*start(), gift(1, 1), gift(4, 3), told(3), Lost("r", EPOCH, 1, 2)], "lost", 1, id="told as lost"),
        pytest.param([*CLEAN, late(3, 2)], "doubled", 1, id="late, but not missing"),
        pytest.param([*start(), gift(1, 1), gift(4, 3), late(3, 2), late(3, 2)], "doubled", 1, id="late twice"),
        pytest.param([*CLEAN, gift(4, 3)], "doubled", 2, id="the same message twice"),
        pytest.param([*CLEAN, gift(5, 4, "g1"), told(4)], "doubled", 1, id="one id under two numbers"),
        pytest.param([*CLEAN, text(2)], "disordered", 1, id="an old message late"),
        pytest.param([*CLEAN, Renumbered("r", 2)], "renumbered", 1, id="history lost"),
    ],
)
def test_a_planted_fault_is_found(log: list[Effect], field: str, count: int) -> None:
    verdict = run(CLEAN, log, accepted=3).verdict(1, settled=True)
    assert getattr(verdict, field) == count
    assert not verdict.is_clean


def test_an_accepted_gift_that_nobody_saw_is_lost_once_it_is_late() -> None:
    ledger = run(CLEAN, accepted=3)
    ledger.accepted("r", "never", 5.0, reliable=True)
    assert ledger.verdict(5.0 + LATE_S).is_clean
    assert ledger.verdict(5.1 + LATE_S).late == 1
    assert not ledger.verdict(5.1 + LATE_S).is_clean


def test_every_item_of_a_package_is_due() -> None:
    ledger = Ledger()
    ledger.accepted("r", "p", 0, reliable=True, items=2)
    for effect in [*start(), gift(1, 1, "p#0"), told(1)]:
        ledger.observe("v", effect)
    assert ledger.verdict(0, settled=True).late == 1


def test_what_comes_late_is_not_lost_and_is_counted() -> None:
    ledger = run(CLEAN, [*start(), gift(1, 1), gift(4, 3), told(3)], accepted=3)
    assert ledger.verdict(1).is_clean  # it may still come
    assert ledger.verdict(1, settled=True).lost == 1
    ledger.observe("v1", late(3, 2))
    verdict = ledger.verdict(1, settled=True)
    assert verdict.is_clean
    assert verdict.pulled == 1


def test_what_the_session_tells_as_lost_is_lost_at_once_and_once() -> None:
    ledger = run([*start(), told(3), Lost("r", EPOCH, 0, 3)])
    assert ledger.verdict(1).lost == 3
    assert ledger.verdict(1, settled=True).lost == 3


def test_a_place_outlives_connections() -> None:
    back: list[Effect] = [*start(), gift(1, 1), told(1), Entered("r", EPOCH, 3, 2), told(2), gift(4, 3), told(3)]
    ledger = run(CLEAN, back, accepted=3)
    assert ledger.verdict(1, settled=True).lost == 1
    ledger.observe("v1", late(3, 2))
    assert ledger.verdict(1, settled=True).is_clean


def test_what_is_missing_when_numbers_begin_again_is_lost() -> None:
    ledger = run([*start(), told(2), Renumbered("r", EPOCH + 1), Progress("r", EPOCH + 1, 0, first=True)])
    assert ledger.verdict(1).lost == 2


def test_nothing_is_due_to_a_viewer_that_left() -> None:
    ledger = run(CLEAN, [*start(), gift(1, 1), told(1)], [*start(), gift(1, 1), Told(Left("r"))], accepted=3)
    ledger.left("v1")
    assert ledger.verdict(1, settled=True).is_clean


@pytest.mark.parametrize(("total", "clean"), [(6, False), (7, True), (9, True), (10, False)])
def test_likes_must_add_up_to_what_was_accepted_and_may_hold_what_is_unknown(total: int, clean: bool) -> None:
    ledger = Ledger()
    ledger.accepted("r", "a", 0, reliable=True, likes=7)
    ledger.unknown("r", likes=2)
    ledger.observe("v", Counts("r", total, None))
    assert ledger.verdict(0, settled=True).is_clean == clean


@given(st.data())
def test_any_single_reliable_message_taken_out_or_repeated_is_found(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30), label="gifts")
    viewers = data.draw(st.integers(1, 4), label="viewers")
    logs: list[list[Effect]] = []
    for _ in range(viewers):
        log = start()
        for number in range(1, count + 1):
            log += [gift(number, number), told(number)]
        logs.append(log)
    assert run(*logs, accepted=count).verdict(0, settled=True).is_clean
    victim = logs[data.draw(st.integers(0, viewers - 1), label="viewer")]
    places = [index for index, effect in enumerate(victim) if isinstance(effect, Delivered)]
    place = data.draw(st.sampled_from(places), label="which")
    if data.draw(st.booleans(), label="lost, else doubled"):
        del victim[place]
        assert run(*logs, accepted=count).verdict(0, settled=True).lost >= 1
    else:
        victim.insert(data.draw(st.integers(place + 1, len(victim)), label="where"), victim[place])
        verdict = run(*logs, accepted=count).verdict(0, settled=True)
        assert verdict.doubled + verdict.disordered >= 1


def test_ids_are_kept_for_a_window_only() -> None:
    ledger = Ledger(window_ids=100)
    for effect in start():
        ledger.observe("v", effect)
    for number in range(1, 1001):
        ledger.observe("v", gift(number, number))
    assert len(ledger._numbers) == 100
    assert ledger.verdict(0).is_clean


def of(user: str, seq: int, rseq: int, id_: str) -> Delivered:
    return Delivered("r", EPOCH, Message(seq, "gift", id_, user, 0, rseq=rseq))


def test_users_who_choose_the_same_id_have_a_gift_each() -> None:
    ledger = Ledger()
    for user in ("ann", "ben", "cy"):
        ledger.accepted("r", "1", 0.0, reliable=True, user=user)
    for effect in [*start(), of("ann", 1, 1, "1"), told(1), of("ben", 2, 2, "1"), told(2)]:
        ledger.observe("v", effect)
    assert ledger.verdict(0).doubled == 0
    assert ledger.verdict(0, settled=True).late == 1, "the third one's did not come"
    ledger.observe("v", of("cy", 3, 3, "1"))
    assert ledger.verdict(0, settled=True).is_clean


def test_the_same_id_of_one_user_under_two_numbers_is_a_double_beside_another_users() -> None:
    ledger = Ledger()
    for effect in [*start(), of("ann", 1, 1, "1"), of("ben", 2, 2, "1"), of("ann", 3, 3, "1"), told(3)]:
        ledger.observe("v", effect)
    assert ledger.verdict(0).doubled == 1


def test_a_gift_that_arrives_before_its_acceptance_is_known_is_not_awaited_of_its_user_alone() -> None:
    ledger = Ledger()
    for effect in [*start(), of("ann", 1, 1, "1"), told(1)]:
        ledger.observe("v", effect)
    ledger.accepted("r", "1", 0.0, reliable=True, user="ann")
    assert ledger.verdict(0, settled=True).is_clean
    ledger.accepted("r", "1", 0.0, reliable=True, user="ben")
    assert ledger.verdict(0, settled=True).late == 1


def test_items_of_packages_with_one_id_are_due_of_each_user() -> None:
    ledger = Ledger()
    for user in ("ann", "ben"):
        ledger.accepted("r", "p", 0.0, reliable=True, user=user, items=2)
    for effect in [*start(), of("ann", 1, 1, "p#0"), of("ann", 2, 2, "p#1"), of("ben", 3, 3, "p#0"), told(3)]:
        ledger.observe("v", effect)
    assert ledger.verdict(0, settled=True).late == 1
