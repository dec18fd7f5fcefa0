"""Data to train on: handwritten digits that come with the package, toy problems, sequences, family trees."""

from .digits import Digits, load_digits, load_mnist, read_idx
from .families import FAMILIES, PEOPLE, RELATIONS, FamilyTrees, family_trees
from .sequences import (
    ELMAN_FEATURES,
    ELMAN_LETTERS,
    EMBEDDED_GRAPH,
    REBER,
    REBER_GRAPH,
    TEMPORAL_ORDER,
    ReberStrings,
    adding,
    continual_reber,
    copy_task,
    decode,
    elman_letters,
    elman_xor,
    embed,
    embedded_reber,
    encode,
    is_embedded_reber,
    is_reber,
    is_walk,
    one_hot,
    random_walk,
    reber,
    require_codes,
    require_string,
    temporal_order,
)
from .toys import GATES, encoder, gate, parity, products, ring, sine, spirals, symmetry, xor


__all__ = [
    "ELMAN_FEATURES", "ELMAN_LETTERS", "EMBEDDED_GRAPH", "FAMILIES", "GATES", "PEOPLE", "REBER", "REBER_GRAPH",
    "RELATIONS", "TEMPORAL_ORDER", "Digits", "FamilyTrees", "ReberStrings", "adding", "continual_reber",
    "copy_task", "decode", "elman_letters", "elman_xor", "embed", "embedded_reber", "encode", "encoder",
    "family_trees", "gate", "is_embedded_reber", "is_reber", "is_walk", "load_digits", "load_mnist", "one_hot",
    "parity", "products", "random_walk", "read_idx", "reber", "require_codes", "require_string", "ring", "sine",
    "spirals", "symmetry", "temporal_order", "xor",
]
