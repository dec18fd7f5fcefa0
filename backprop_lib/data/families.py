"""The two family trees of Hinton's experiment, as 104 facts."""

from typing import NamedTuple

import numpy as np

from .sequences import one_hot


# Husband and wife of five couples, with their children; the last entry of a row is the couple's son and daughter.
FAMILIES = {
    "English": (("Christopher", "Penelope", ("Arthur", "Victoria")), ("Andrew", "Christine", ("James", "Jennifer")),
                ("Arthur", "Margaret", ()), ("James", "Victoria", ("Colin", "Charlotte")), ("Charles", "Jennifer", ())),
    "Italian": (("Roberto", "Maria", ("Emilio", "Lucia")), ("Pierro", "Francesca", ("Marco", "Angela")),
                ("Emilio", "Gina", ()), ("Marco", "Lucia", ("Alfonso", "Sophia")), ("Tomaso", "Angela", ()))}
RELATIONS = ("husband", "wife", "father", "mother", "son", "daughter", "brother", "sister", "uncle", "aunt", "nephew",
             "niece")


def people_of(couples):
    """The twelve names of a family, generation by generation; those at the same place in two families correspond."""
    return tuple(dict.fromkeys(name for man, woman, children in couples for name in (man, woman, *children)))


PEOPLE = tuple(name for couples in FAMILIES.values() for name in people_of(couples))


def relatives(couples):
    """Who is what to whom in one family: {relation: booleans (12, 12)}, row the person, column the relative."""
    names = people_of(couples)
    married, parent = np.zeros((2, len(names), len(names)), dtype=bool)
    is_man = np.zeros(len(names), dtype=bool)
    for man, woman, children in couples:
        pair, young = [names.index(man), names.index(woman)], [names.index(child) for child in children]
        married[pair, pair[::-1]] = True
        parent[np.ix_(young, pair)] = True
        is_man[pair[:1] + young[:1]] = True
    sibling = (parent @ parent.T) & ~np.eye(len(names), dtype=bool)
    uncle = parent @ (sibling | sibling @ married)              # of booleans, @ asks whether there is a way
    kinds = married, parent, parent.T, sibling, uncle, uncle.T
    return {relation: kinds[k//2] & (is_man if k%2 == 0 else ~is_man) for k, relation in enumerate(RELATIONS)}


class FamilyTrees(NamedTuple):
    x: np.ndarray
    t: np.ndarray
    facts: list


def family_trees():
    """Two families with the same tree: x (104, 36), t (104, 24), and the facts, (person, relation, names) each.

    A row of x has a 1 for the person, of 24 in PEOPLE, and a 1 for the relation, of 12 in RELATIONS; t has a 1 for each
    person so related to the first: Colin's uncles are Arthur and Charles. Uncles and aunts may be so by marriage. The
    first half of PEOPLE and of the facts is English, the second Italian, in corresponding order.
    Source: G. E. Hinton 1986, "Learning distributed representations of concepts"; names and trees from memory.
    """
    table = np.stack([np.stack(list(relatives(couples).values()), axis=1) for couples in FAMILIES.values()])
    half, person, relation = np.nonzero(table.any(axis=3))
    x = np.concatenate([one_hot(12*half + person, 24), one_hot(relation, 12)], axis=1)
    t = np.zeros((len(x), 2, 12))
    t[np.arange(len(x)), half] = table[half, person, relation]
    t = t.reshape(-1, 24)
    facts = [(PEOPLE[row[:24].argmax()], RELATIONS[row[24:].argmax()], [PEOPLE[k] for k in np.flatnonzero(answer)])
             for row, answer in zip(x, t)]
    return FamilyTrees(x, t, facts)
