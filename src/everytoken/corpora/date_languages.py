"""A corpus of texts with classes: dates as the world writes them, and the language they are in.

Only what tells the language is taken: ``07.02.1998`` is written in many, ``9 september 2026`` in
two. Nothing is downloaded, see `dates`.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from functools import cache

import numpy as np

from everytoken.corpora.columns import packed
from everytoken.corpora.dates import SPLIT_ENDS, Dates, Form, all_forms
from everytoken.corpora.drawn import Drawn

LOOKED_AT = {False: (7, 17), True: (*range(1, 8), *range(11, 18))}
"""Days of a month that show how a form writes the others: with one digit, with two; and, if it has
it, on each day of the week."""

YEAR = 2026


@cache
def telling_forms() -> tuple[tuple[Form, ...], ...]:
    """For each month the forms in which no other language writes a date.

    Forms that have digits only are left out: languages that aren't among ours share them.
    """
    spelled = [form for form in all_forms() if _has_letters(form)]
    return tuple(tuple(_alone(spelled, month)) for month in range(1, 13))


def _has_letters(form: Form) -> bool:
    return "MMM" in form.pattern.pattern.replace("L", "M") or _has_weekday(form)


def _has_weekday(form: Form) -> bool:
    return any(field in form.pattern.pattern for field in ("EEE", "ccc"))


def _alone(forms: list[Form], month: int) -> list[Form]:
    languages: dict[str, set[str]] = defaultdict(set)
    texts = {
        form: [form.text(date(YEAR, month, day)) for day in LOOKED_AT[_has_weekday(form)]]
        for form in forms
    }
    for form, found in texts.items():
        for text in found:
            languages[text].add(form.locale.language)
    return [form for form in forms if all(len(languages[text]) == 1 for text in texts[form])]


class DateLanguages:
    """Dates in many languages and scripts (``text``) with the name of the language (``labels``).

    Each example is a pair of a date of the split and a form that tells its language, drawn
    uniformly, no pair twice. All arguments are those of `Dates`.
    """

    fields = ("text", "labels")

    def __init__(
        self,
        train_examples: int,
        val_examples: int,
        test_examples: int,
        first_year: int,
        last_year: int,
        seed: int,
    ) -> None:
        self.dates = Dates(0, 0, 0, first_year, last_year, seed)
        self.seed = seed
        self.counts = {"train": train_examples, "val": val_examples, "test": test_examples}
        for split, count in self.counts.items():
            most = int(self._ends(split)[-1])
            if not 0 <= count <= most:
                raise ValueError(
                    f"{split}_examples is {count}: give 0 to {most}, the number of distinct "
                    f"examples that {first_year} to {last_year} holds, or widen the years"
                )

    def examples(self, split: str) -> Sequence[dict[str, str]]:
        """The examples of one split, the same at every call; each is made when it is read."""
        ends = self._ends(split)
        rng = np.random.default_rng([self.seed, 1 + [*SPLIT_ENDS].index(split)])
        drawn = rng.choice(ends[-1], size=self.counts[split], replace=False)
        days = self.dates.days[split]

        def make(number: int) -> dict[str, str]:
            place = int(np.searchsorted(ends, number, side="right"))
            on = date.fromordinal(int(days[place]))
            form = telling_forms()[on.month - 1][int(ends[place]) - number - 1]
            language = form.locale.get_language_name("en")
            return {"text": form.text(on), "labels": packed([language])}

        return Drawn(make, drawn)  # pyright: ignore[reportArgumentType]: an array of numbers

    def fingerprint(self) -> str:
        """Changes with what the texts are made of, apart from arguments and code."""
        return self.dates.fingerprint()

    def _ends(self, split: str) -> np.ndarray:
        """(days,) how many examples there are up to each day of a split."""
        counts = np.array([len(forms) for forms in telling_forms()])
        days = self.dates.days[split]
        return counts[[date.fromordinal(day).month - 1 for day in days.tolist()]].cumsum()
