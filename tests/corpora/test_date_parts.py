"""Words of dates, and which part each is of."""

import json
from collections import Counter
from datetime import date

from everytoken.corpora.date_parts import PARTS, DateParts
from everytoken.corpora.dates import all_forms
from everytoken.corpora.words import split_words


def corpus() -> DateParts:
    return DateParts(40, 10, 10, 1900, 2099, seed=1)


def words_and_tags(example: dict[str, str]) -> list[tuple[str, str]]:
    return list(zip(*(json.loads(example[f]) for f in ("words", "tags")), strict=True))


def test_each_part_of_each_form_is_tagged_once() -> None:
    source = corpus()
    for form in all_forms():
        for day in (date(1998, 2, 7), date(2026, 11, 22)):
            parts = form.parts(day)
            assert "".join(text for _, text in parts) == form.text(day)
            pairs = words_and_tags(source.example(form, day))
            assert [word for word, _ in pairs] == split_words(form.text(day), "punctuation")
            begun = Counter(tag[2:] for _, tag in pairs if tag.startswith("B-"))
            assert begun == Counter(PARTS[field] for field, _ in parts if field in PARTS)
            year = next(word for word, tag in pairs if tag == "B-YEAR")
            assert int(year) == day.year


def test_splits_are_those_of_dates() -> None:
    source = corpus()
    found = {split: [*source.examples(split)] for split in ("train", "val", "test")}
    assert [len(examples) for examples in found.values()] == [40, 10, 10]
    assert found["val"] == [*source.examples("val")]
    assert all({*one} == {"words", "tags"} for one in found["train"])
