"""Texts made from a seed, and models of text: mail, spoken phrases, what people begin to type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tidemill.models.signature import Array
from tidemill.recipes.demo.cases.case import Rng

TEXT = "text"

_SYLLABLES = "ba be bo da di do fa fe go ka ke ki la le lo ma me mo na ne no pa pe ra re ro sa se"
_OFFERS = (
    "win a prize now",
    "cheap pills today",
    "your account is locked",
    "meet singles near you",
)
_VERBS = ("play", "call", "open", "set", "find", "show", "send", "start", "stop", "buy")
_THINGS = ("music", "the door", "a timer", "my mail", "the news", "the lights", "a taxi", "mother")
_WHENS = ("now", "today", "tomorrow", "at noon", "tonight", "please", "again", "later")


def as_table(texts: list[str]) -> pa.Table:
    """Returns texts as rows of one column."""
    return pa.table({TEXT: texts})


def vocabulary(rng: Rng, count: int) -> list[str]:
    """Returns distinct made-up words."""
    syllables = _SYLLABLES.split()
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(syllables, rng.integers(2, 5)))] = None
    return list(found)


def popular(rng: Rng, count: int, of: int, exponent: float) -> Array:
    """Draws ranks below ``of`` by Zipf's law; (count,)."""
    shares = np.arange(1, of + 1) ** -exponent
    ranks: Array = rng.choice(of, count, p=shares / shares.sum())
    return ranks


def mail(rng: Rng, count: int) -> list[str]:
    """Returns mail: half of it made from a few offers, with another name and number each time."""
    words = vocabulary(rng, 400)
    texts = []
    for spam in rng.random(count) < 0.5:
        some = rng.choice(words, 12)
        if spam:
            offer = _OFFERS[rng.integers(len(_OFFERS))]
            texts.append(f"dear {some[0]}, {offer}! code {rng.integers(10**9)}")
        else:
            texts.append(" ".join(some))
    return texts


def mail_examples(rng: Rng) -> tuple[pa.Table, Array]:
    """Returns mail, and whether each is spam."""
    texts = mail(rng, 2000)
    return pa.table({TEXT: texts}), np.array([any(o in t for o in _OFFERS) for t in texts], int)


def phrases(rng: Rng, count: int) -> list[str]:
    """Returns what is said to a voice assistant: a few phrases hot, a long tail, some new."""
    # The same phrases whatever the generator's state: what is popular stays so.
    known = [
        f"{verb} {thing} {when} {extra}".strip()
        for extra in ("", *vocabulary(np.random.default_rng(5), 9))
        for when in _WHENS
        for thing in _THINGS
        for verb in _VERBS
    ]
    texts = [known[rank] for rank in popular(rng, count, len(known), 1.1)]
    for at in np.flatnonzero(rng.random(count) < 0.1):
        texts[at] = f"{texts[at]} number {rng.integers(10**9)}"
    return texts


def phrase_examples(rng: Rng) -> tuple[pa.Table, Array]:
    """Returns phrases, and the intent of each: its verb."""
    texts = phrases(rng, 2000)
    return pa.table({TEXT: texts}), np.array([_VERBS.index(text.split()[0]) for text in texts])


def prefixes(rng: Rng, count: int) -> list[str]:
    """Returns what was typed so far: highly peaked, and of a closed set."""
    words = vocabulary(np.random.default_rng(7), 600)
    known = list(dict.fromkeys(word[:size] for size in (2, 3, 4, 5) for word in words))
    return [known[rank] for rank in popular(rng, count, len(known), 1.3)]


def prefix_examples(rng: Rng) -> tuple[pa.Table, Array]:
    """Returns what was typed, and which of twelve completions was taken."""
    texts = prefixes(rng, 2000)
    return pa.table({TEXT: texts}), np.array([sum(map(ord, text)) % 12 for text in texts])


def text_model() -> Any:
    """Returns a classifier of n-grams of letters; it does not compile, and computes in a worker."""
    from sklearn.compose import ColumnTransformer  # noqa: PLC0415 - an extra
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415

    grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=4000)
    return make_pipeline(
        ColumnTransformer([("grams", grams, TEXT)]), LogisticRegression(max_iter=300)
    )
