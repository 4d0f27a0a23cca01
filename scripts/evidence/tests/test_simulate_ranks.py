"""The sampler of a huge job, simulated: even, in no time, without memory."""

import pytest

import simulate_ranks


def test_a_large_corpus_is_dealt_out_evenly_at_once_and_from_the_disk(
    capsys: pytest.CaptureFixture[str],
):
    words = ["--examples", "20000000", "--ranks", "1024", "--texts", "sentences", "--steps", "3"]
    assert simulate_ranks.main(words) == 0
    titles, _, row = (
        line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()
    )
    found = dict(zip(titles, row, strict=True))
    assert found["examples"] == "20,000,000"
    assert float(found["busiest"]) < 1.02
    assert float(found["MiB"]) < 64, (
        "160 for a permutation, and as much again to sort lengths by it"
    )
    assert float(found["start s"]) < 5
    assert float(found["resume s"]) < 5
    assert float(found["cut ms"]) < 40


def test_a_text_that_is_more_than_a_share_is_told(capsys: pytest.CaptureFixture[str]):
    words = ["--examples", "20000", "--ranks", "64", "--texts", "books", "--steps", "1"]
    assert simulate_ranks.main([*words, "--tokens", "1000000"]) == 0
    row = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    busiest, _, one_text = map(float, row[-3:])
    assert busiest == one_text > 1.5


def test_an_uneven_rank_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(simulate_ranks, "share_work", lambda costs, ranks: costs * 0)
    words = ["--examples", "20000", "--ranks", "8", "--texts", "sentences", "--steps", "1"]
    assert simulate_ranks.main([*words, "--tokens", "100000"]) == 1
