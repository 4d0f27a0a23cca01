"""The confusion matrix of the page."""

from everytoken.report.confusion import MOST, confusion


def test_rows_are_targets_and_columns_predictions() -> None:
    found = confusion([["b", "b", 5], ["a", "b", 2], ["a", "a", 1]])
    assert found == {"labels": ["a", "b"], "counts": [[1, 2], [0, 5]], "classes": 2}


def test_all_but_the_most_frequent_are_together() -> None:
    cells = [[f"c{i:02}", f"c{i:02}", 100 - i] for i in range(MOST + 5)]
    found = confusion([*cells, ["c00", "c24", 3], ["c22", "c23", 2]])
    assert found["labels"] == [*(f"c{i:02}" for i in range(MOST)), None]
    assert found["classes"] == MOST + 5
    assert sum(map(sum, found["counts"])) == sum(count for *_, count in cells) + 5
    assert found["counts"][0][-1] == 3
    assert found["counts"][-1][-1] == sum(100 - i for i in range(MOST, MOST + 5)) + 2
