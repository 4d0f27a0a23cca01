"""What a rank of FSDP holds and saves, in short: a tiny model, and no lost checkpoint."""

import sys

import pytest

import shard_a_model


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks of memory are read in /proc")
def test_checkpoints_in_shards_stay_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    code = shard_a_model.main(["--width", "64", "--layers", "2", "--kills", "1"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.count("same bits") == 3
    assert "1 kills while shards were being written: 0 lost checkpoints" in printed
