"""Switch, eqs. 3 and 7: who is kept, who is dropped, and in which slot."""

from dataclasses import replace

import numpy as np

from .. import equations as eq
from .property import BOTH, Property, answered, best_gate, choice, entering, same
from .subject import Broken

__all__ = ["PROPERTIES"]

PROPERTIES: list[Property] = []
claim = entering(PROPERTIES)


def _seats(subject, case):
    """Which expert each token asks for, and which tokens are kept."""
    if subject.name == "router":
        _, expert_t, _, slot_t = subject(case).values()
        return expert_t, slot_t >= 0
    return choice(case), answered(subject, case.echo(1))[1]


def _kept_of(expert_t, kept_t, E):
    return zip(np.bincount(expert_t, minlength=E), np.bincount(expert_t[kept_t], minlength=E), strict=True)


@claim("3a", "an expert keeps min(n, C) of the n tokens that ask for it", *BOTH)
def _keeps_as_many_as_fit(subject, case, rng):
    expert_t, kept_t = _seats(subject, case)
    for e, (asked, kept) in enumerate(_kept_of(expert_t, kept_t, case.E)):
        if kept != min(asked, case.C):
            why = f"expert {e} keeps {kept} of the {asked} tokens that ask for it, where C = {case.C}"
            raise Broken(why, expert_t=expert_t, kept_t=kept_t)


@claim("3b", "no expert takes more than C, and no two tokens sit in one slot", *BOTH)
def _overfills_nobody(subject, case, rng):
    expert_t, kept_t = _seats(subject, case)
    for e, (_, kept) in enumerate(_kept_of(expert_t, kept_t, case.E)):
        if kept > case.C:
            raise Broken(f"expert {e} takes {kept} tokens, where C = {case.C}", expert_t=expert_t, kept_t=kept_t)


@claim("3b", "no expert takes more than C, and no two tokens sit in one slot", "router")
def _gives_no_seat_twice(router, case, rng):
    _, expert_t, _, slot_t = router(case).values()
    taken = {}
    for t, seat in enumerate(zip(expert_t.tolist(), slot_t.tolist(), strict=True)):
        if not -1 <= seat[1] < case.C:
            raise Broken(f"slot_t[{t}] is {seat[1]}, where C = {case.C}", expert_t=expert_t, slot_t=slot_t)
        if seat[1] >= 0 and seat in taken:
            why = f"tokens {taken[seat]} and {t} both sit in slot {seat[1]} of expert {seat[0]}"
            raise Broken(why, expert_t=expert_t, slot_t=slot_t)
        taken[seat] = t


@claim("3c", "more room drops nobody who was kept", *BOTH)
def _keeps_whom_it_kept(subject, case, rng):
    _, kept_t = _seats(subject, case)
    _, roomier_t = _seats(subject, replace(case, C=case.C + 1))
    lost = np.flatnonzero(kept_t & ~roomier_t)
    if lost.size:
        why = f"token {lost[0]} is kept where C = {case.C} and dropped where C = {case.C + 1}"
        raise Broken(why, kept_t=kept_t, roomier_t=roomier_t)


@claim("3d", "with C of T or more, or T/N in perfect balance, nobody is dropped", *BOTH)
def _drops_nobody_with_room(subject, case, rng):
    each = int(rng.integers(1, 4))
    label_t = rng.permutation(np.arange(case.E * each) % case.E)
    eye_de = np.eye(case.E)
    balanced = replace(case.echo(1), x_td=3 * eye_de[label_t], wr_de=eye_de, C=each)
    for roomy in (case.roomy(), replace(case, C=case.T + 2), balanced):
        expert_t, kept_t = _seats(subject, roomy)
        if not kept_t.all():
            dropped = np.flatnonzero(~kept_t)[0]
            raise Broken(f"token {dropped} is dropped, where T = {roomy.T} and C = {roomy.C}", expert_t=expert_t, kept_t=kept_t)


@claim("3e", "splitting a group into smaller ones, each with its share of the capacity, saves no token", *BOTH)
def _saves_none_by_splitting(subject, case, rng):
    G = int(rng.integers(2, 4))
    _, kept_t = _seats(subject, replace(case, C=G * case.C))
    parts = [_seats(subject, replace(case, x_td=x_td))[1] for x_td in np.array_split(case.x_td, G) if len(x_td)]
    if np.concatenate(parts).sum() > kept_t.sum():
        why = f"{G} groups with C = {case.C} keep more tokens than one group with C = {G * case.C}"
        raise Broken(why, split_t=np.concatenate(parts), kept_t=kept_t)


@claim("3f", "an expert's slots are filled from 0 with no hole", "router")
def _leaves_no_hole(router, case, rng):
    _, expert_t, _, slot_t = router(case).values()
    for e in range(case.E):
        filled = np.sort(slot_t[(expert_t == e) & (slot_t >= 0)]).tolist()
        if filled != list(range(len(filled))):
            raise Broken(f"expert {e} has filled slots {filled}, where C = {case.C}", expert_t=expert_t, slot_t=slot_t)


@claim("3j", "one token at a time, as with a cache, is the same as all at once with room for all", *BOTH)
def _answers_one_by_one(subject, case, rng):
    together = subject(case.roomy())
    for t in range(min(case.T, 20)):
        for name, it in subject(replace(case, x_td=case.x_td[t : t + 1], C=1)).items():
            if name != "slot_t":
                same(name, it, together[name][t : t + 1], f"for token {t} among all it was")


@claim("7a", "the dispatch tensor is 0 and 1, with at most one 1 for a token and one for a slot", "router")
def _seats_one_to_one(router, case, rng):
    _, expert_t, _, slot_t = router(case).values()
    seat_tec = eq.seating(expert_t, slot_t, case.E, case.C).astype(int)
    same("seats_t", seat_tec.sum(axis=(1, 2)), (slot_t >= 0).astype(int), "a kept token has one seat, a dropped one none:")
    crowd_ec = seat_tec.sum(axis=0)
    same("crowd_ec", crowd_ec, np.minimum(crowd_ec, 1), "a slot holds at most")


@claim("7b", "out to its seat and home again, a kept token is itself and a dropped one 0", "router")
def _brings_every_token_home(router, case, rng):
    _, expert_t, _, slot_t = router(case).values()
    seat_t = list(zip(expert_t.tolist(), slot_t.tolist(), strict=True))
    queues = {seat: x_d for seat, x_d in zip(seat_t, case.x_td, strict=True) if 0 <= seat[1] < case.C}
    home_td = np.array([queues.get(seat, np.zeros_like(x_d)) for seat, x_d in zip(seat_t, case.x_td, strict=True)])
    same("home_td", home_td, np.where(slot_t[:, None] >= 0, case.x_td, 0), "what went out was", tolerance=0)


@claim("7b", "out to its seat and home again, a kept token is itself and a dropped one 0", "layer")
def _echoes_every_token(layer, case, rng):
    echo = case.echo(-1)
    y_td, kept_t = answered(layer, echo)
    expected_td = best_gate(case)[:, None] * (choice(case) + 1)[:, None] * case.x_td
    same("y_td", y_td, np.where(kept_t[:, None], expected_td, 0), "with experts that answer (i + 1) x it should be")


@claim("order", "first come, first served, as in mesh-tf, flaxformer and Hugging Face: the paper does not say", *BOTH)
def _serves_the_first_first(subject, case, rng):
    expert_t, kept_t = _seats(subject, case)
    wrong = np.flatnonzero(kept_t != (eq.slots(expert_t, case.E, case.C) >= 0))
    if wrong.size:
        verb = "kept" if kept_t[wrong[0]] else "dropped"
        why = f"token {wrong[0]} is {verb} out of turn at expert {expert_t[wrong[0]]}, where C = {case.C}"
        raise Broken(why, expert_t=expert_t, kept_t=kept_t)
