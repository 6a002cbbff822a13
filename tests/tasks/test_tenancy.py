"""Whose a warm actor is: one run at a time, nobody's after its run, free again when its driver is gone, over in time."""

from dataclasses import replace

from tasks.pools.tenancy import Tenancy, WarmTerms

TERMS = WarmTerms("recipe", idle_s=100.0, hang_s=1000.0, lease_s=60.0)


class Clock:
    """Seconds that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_one_run_has_it_until_it_lets_go() -> None:
    tenancy = Tenancy("one", TERMS, Clock())
    assert not tenancy.claim("two", TERMS)
    tenancy.release("two")
    assert not tenancy.is_free()
    tenancy.release("one")
    assert not tenancy.claim("two", replace(TERMS, key="another recipe"))
    assert tenancy.claim("two", TERMS)
    assert not tenancy.claim("three", TERMS)
    with tenancy.at_work_for("one") as is_owner:
        assert not is_owner
    with tenancy.at_work_for("two") as is_owner:
        assert is_owner


def test_a_run_that_is_not_heard_of_has_lost_it_but_not_in_the_middle_of_a_batch() -> None:
    clock = Clock()
    tenancy = Tenancy("one", TERMS, clock)
    clock.now_s = 59.0
    tenancy.hear("one")
    clock.now_s = 118.0
    assert not tenancy.claim("two", TERMS)
    with tenancy.at_work_for("one"):
        clock.now_s = 300.0
        assert not tenancy.claim("two", TERMS)
    assert not tenancy.claim("two", TERMS)
    clock.now_s = 361.0
    assert tenancy.claim("two", TERMS)
    tenancy.hear("one")
    with tenancy.at_work_for("one") as is_owner:
        assert not is_owner


def test_it_ends_after_its_idle_time_and_not_before() -> None:
    clock = Clock()
    tenancy = Tenancy("one", TERMS, clock)
    for clock.now_s in (50.0, 100.0, 150.0):
        tenancy.hear("one")
        assert not tenancy.end_if_over()
    tenancy.release("one")
    clock.now_s = 249.0
    assert not tenancy.end_if_over()
    assert tenancy.claim("two", TERMS)
    clock.now_s = 300.0
    assert not tenancy.end_if_over()
    # Its driver is gone: idle since it was last heard of.
    clock.now_s = 350.0
    assert tenancy.end_if_over()
    assert not tenancy.claim("three", TERMS)


def test_a_hanging_batch_of_a_dead_driver_ends_it_too() -> None:
    clock = Clock()
    tenancy = Tenancy("one", TERMS, clock)
    with tenancy.at_work_for("one"):
        clock.now_s = 1060.0
        assert not tenancy.end_if_over()
        clock.now_s = 1061.0
        assert tenancy.end_if_over()


def test_only_a_free_one_is_ended_by_command() -> None:
    tenancy = Tenancy("one", TERMS, Clock())
    assert not tenancy.end_if_free()
    tenancy.release("one")
    assert tenancy.end_if_free()
    assert not tenancy.claim("two", TERMS)


def test_without_terms_it_is_its_first_owners() -> None:
    clock = Clock()
    tenancy = Tenancy("", None, clock)
    clock.now_s = 1e9
    assert not tenancy.claim("two", TERMS)
    assert not tenancy.end_if_free()
    assert not tenancy.end_if_over()
    with tenancy.at_work_for("") as is_owner:
        assert is_owner
