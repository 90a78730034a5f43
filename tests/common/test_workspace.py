"""Where DVC, git and the default store are."""

from pathlib import Path

from captioner.common.workspace import FINE_TUNED, TRAINED, checkout_of, trained_last


def test_the_checkout_is_the_one_around(tmp_path: Path) -> None:
    (tmp_path / "a/.dvc").mkdir(parents=True)
    (tmp_path / "a/b/c").mkdir(parents=True)
    assert checkout_of(tmp_path / "a/b/c") == tmp_path / "a"
    assert checkout_of(tmp_path) == tmp_path


def test_the_results_of_the_last_stage_that_trained(tmp_path: Path) -> None:
    assert trained_last(tmp_path, "run.json") == tmp_path / FINE_TUNED
    for place in (TRAINED, FINE_TUNED):  # the first alone is what an older version left
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").write_text("{}")
        assert trained_last(tmp_path, "run.json") == tmp_path / place
