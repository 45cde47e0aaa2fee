"""Rounds made ahead: the same values, each once, and only the next one."""

import threading

import pytest

from metaleaf.ahead import Ahead


def test_each_number_is_made_once_and_all_but_the_first_elsewhere() -> None:
    made: list[tuple[int, bool]] = []
    here = threading.get_ident()

    def f(number: int) -> int:
        made.append((number, threading.get_ident() == here))
        return number * number

    ahead = Ahead(f, last=4)
    assert [ahead(number) for number in range(1, 5)] == [1, 4, 9, 16]
    assert made == [(1, True), (2, False), (3, False), (4, False)]


def test_the_next_is_made_before_it_is_asked_for_and_no_more() -> None:
    begun = {number: threading.Event() for number in range(1, 6)}
    ahead = Ahead(lambda number: begun[number].set(), last=5)
    ahead(1)
    assert begun[2].wait(10)
    assert not begun[3].is_set()


def test_it_may_begin_anywhere_and_turn_back() -> None:
    ahead = Ahead(lambda number: number, last=10)
    assert [ahead(number) for number in (7, 8, 3, 4, 10)] == [7, 8, 3, 4, 10]


def test_a_failure_comes_when_it_is_its_turn() -> None:
    def f(number: int) -> int:
        if number == 2:
            raise ValueError("round 2")
        return number

    ahead = Ahead(f, last=3)
    assert ahead(1) == 1
    with pytest.raises(ValueError, match="round 2"):
        ahead(2)
    assert ahead(3) == 3
