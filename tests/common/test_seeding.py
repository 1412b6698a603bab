"""Seeds are functions of their parts."""

from itertools import permutations

from common.seeding import derive_seed


def test_a_seed_is_the_same_in_every_process_and_version() -> None:
    # A resumed run draws on from these numbers: a change here breaks reproducibility.
    assert derive_seed(0, "Siemens", 1) == 1068154865
    assert derive_seed() == 3820012610


def test_seeds_are_32_bit() -> None:
    seeds = [derive_seed("any", number) for number in range(200)]
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert max(seeds) > 2**31


def test_a_seed_depends_on_every_part_on_their_order_and_on_their_bounds() -> None:
    parts: list[tuple[str | int, ...]] = list(permutations((0, "a", 1)))
    parts += [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), (0, "a")]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
