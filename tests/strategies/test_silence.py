"""A site that does not answer is asked ever more rarely."""

from strategies.silence import Silences, pause


def asked(rounds: int, answers: set[int]) -> list[int]:
    """Return the rounds of the questions to a site that answers in these rounds alone.

    Every round asks twice, as training and validation do.
    """
    silences, found = Silences(), []
    for number in range(1, rounds + 1):
        for _ in range(2):
            if silences.is_due("GE", number):
                found.append(number)
                both = ["GE"]
                silences.note(number, *(([], both) if number in answers else (both, [])))
    return found


def test_the_pauses_double() -> None:
    assert [pause(n) for n in range(1, 7)] == [0, 1, 2, 4, 8, 16]
    assert asked(40, set()) == [1, 1, 2, 4, 8, 16, 32]


def test_an_answer_ends_them() -> None:
    assert asked(9, {4, 5, 6}) == [1, 1, 2, 4, 4, 5, 5, 6, 6, 7, 7, 8]


def test_one_silence_changes_nothing() -> None:
    silences = Silences()
    silences.note(1, ["GE"], ["Philips"])
    assert silences.is_due("GE", 1)
    assert silences.is_due("Philips", 1)
    silences.note(1, ["GE"], [])
    assert not silences.is_due("GE", 1)
    assert silences.reason("GE") == "not asked before round 2, as it was silent 2 times"
    silences.forget("GE")
    assert silences.is_due("GE", 1)
