"""The six cases, and what theory says of each."""

from __future__ import annotations

from tidemill.planning.alternatives import Promise
from tidemill.recipes.demo.cases import numbers, words
from tidemill.recipes.demo.cases.case import (
    Case,
    Flip,
    with_instant_model,
    with_law,
    with_prices,
    with_promise,
    with_traffic,
)

_DAY_S = 86_400.0
_DEAR = 3e7

CASES = {
    case.name: case
    for case in (
        Case(
            name="spam",
            title="is this mail spam?",
            told="Nearly every mail is new, so that no table knows it: the model must be asked. "
            "Where generated mail is folded together, so that what repeats is its make, few keys "
            "are left, and a table answers.",
            rate_rps=100.0,
            examples=words.mail_examples,
            model=words.text_model,
            questions=lambda rng, n: words.as_table(words.mail(rng, n)),
            promise=Promise(slo_ms=100.0, refresh_s=_DAY_S),
            expected=("dynamic",),
            flips=(
                Flip(
                    what="numbers in mail are folded, so that generated mail repeats",
                    represent={"text": "text(digits, punctuation)"},
                    expected=("static", "hybrid"),
                ),
            ),
        ),
        Case(
            name="voice",
            title="what does this phrase want?",
            told="A few phrases are said all the time, the tail is long, and one in ten was never "
            "said before: a table for the head, the model for the rest. Where memory is dear, the "
            "model answers all.",
            rate_rps=100.0,
            examples=words.phrase_examples,
            model=words.text_model,
            questions=lambda rng, n: words.as_table(words.phrases(rng, n)),
            promise=Promise(slo_ms=100.0, refresh_s=_DAY_S),
            expected=("hybrid",),
            flips=(
                Flip(
                    what="memory costs ten million times as much",
                    change=with_prices(memory_gb_month=_DEAR),
                    expected=("dynamic",),
                ),
            ),
        ),
        Case(
            name="ads",
            title="how often does this ad lead to a purchase?",
            told="A stable, small set of campaigns and places; an answer may be an hour old: all "
            "are computed beforehand.",
            rate_rps=200.0,
            examples=numbers.ad_examples,
            model=numbers.forest,
            questions=numbers.placed_ads,
            promise=Promise(slo_ms=50.0, max_age_s=3600.0, refresh_s=3600.0),
            expected=("static",),
            flips=(
                Flip(
                    what="an answer may be ten milliseconds old",
                    change=with_promise(refresh_s=0.01, max_age_s=0.01),
                    expected=("dynamic",),
                ),
                Flip(
                    what="memory costs ten million times as much",
                    change=with_prices(memory_gb_month=_DEAR),
                    expected=("dynamic",),
                ),
            ),
        ),
        Case(
            name="autocomplete",
            title="how will this word end?",
            told="Highly peaked, and of a closed set of prefixes: a table of all of them, or of "
            "the head where that is cheaper.",
            rate_rps=150.0,
            examples=words.prefix_examples,
            model=words.text_model,
            questions=lambda rng, n: words.as_table(words.prefixes(rng, n)),
            promise=Promise(slo_ms=50.0, refresh_s=_DAY_S),
            expected=("static", "hybrid"),
            flips=(
                Flip(
                    what="memory costs ten million times as much, and the model nothing",
                    change=lambda question: with_instant_model()(
                        with_prices(memory_gb_month=_DEAR)(question)
                    ),
                    expected=("dynamic",),
                ),
                Flip(
                    what="the model takes 80 ms, and answers are due in 50",
                    change=lambda question: with_law(0.08, 0.0)(
                        with_traffic(new_keys=0.0, ahead=1.0)(question)
                    ),
                    expected=("static",),
                ),
            ),
        ),
        Case(
            name="lifetime",
            title="what will this customer spend yet?",
            told="Many customers, each seldom asked about, and different each time: whatever is "
            "computed beforehand is hardly ever asked for.",
            rate_rps=150.0,
            examples=numbers.customer_examples,
            model=numbers.forest,
            questions=numbers.customers,
            promise=Promise(slo_ms=50.0, refresh_s=_DAY_S),
            expected=("dynamic",),
            flips=(
                Flip(
                    what="there are 500 customers, the same all year, and the model takes 5 ms",
                    change=lambda question: with_law(0.005, 0.001)(
                        with_traffic(
                            cardinality=500, top=((500, 1.0),), new_keys=0.0, reuse=(), ahead=1.0
                        )(question)
                    ),
                    expected=("static",),
                ),
            ),
        ),
        Case(
            name="divisions",
            title="what will this division sell?",
            told="Forty divisions and four quarters: all answers fit on a page.",
            rate_rps=100.0,
            examples=numbers.division_examples,
            model=numbers.forest,
            questions=numbers.divisions,
            promise=Promise(slo_ms=50.0, refresh_s=_DAY_S),
            expected=("static",),
            flips=(
                Flip(
                    what="sales are booked all the time: an answer may be five milliseconds old",
                    change=with_promise(refresh_s=0.005, max_age_s=0.005),
                    expected=("dynamic",),
                ),
            ),
        ),
    )
}
"""By name."""
