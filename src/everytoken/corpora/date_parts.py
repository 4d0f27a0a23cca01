"""A corpus of tagged words: dates as the world writes them, and which part each word is of.

Forms, dates and splits are those of ``dates``: nothing is downloaded.
"""

from datetime import date

from everytoken.corpora.columns import packed
from everytoken.corpora.dates import Dates, Form
from everytoken.corpora.words import word_places

PARTS = {"E": "WEEKDAY", "c": "WEEKDAY", "d": "DAY", "M": "MONTH", "L": "MONTH", "y": "YEAR"}
"""What CLDR's fields are; all else is outside."""


class DateParts(Dates):
    """Dates in many languages and scripts, in words (``words``) with the part of each (``tags``).

    ``["Samedi","7","février","1998"]`` has ``["B-WEEKDAY","B-DAY","B-MONTH","B-YEAR"]``. A word is
    of the first part that it holds: some languages join articles and the like to it.
    Arguments are those of ``Dates``.
    """

    fields = ("words", "tags")

    def example(self, form: Form, day: date) -> dict[str, str]:
        """Words and tags of a date in a form."""
        parts = form.parts(day)
        text = "".join(text for _, text in parts)
        owners = [(i, PARTS.get(field, "")) for i, (field, part) in enumerate(parts) for _ in part]
        words, tags, before = [], [], -1
        for begin, end in word_places(text, "punctuation"):
            words.append(text[begin:end])
            own, name = next((one for one in owners[begin:end] if one[1]), (-1, ""))
            tags.append(f"{'I' if own == before else 'B'}-{name}" if name else "O")
            before = own
        return {"words": packed(words), "tags": packed(tags)}
