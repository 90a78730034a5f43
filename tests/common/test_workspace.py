"""Where DVC, git and the default store are."""

from pathlib import Path

from captioner.common.workspace import checkout_of


def test_the_checkout_is_the_one_around(tmp_path: Path) -> None:
    (tmp_path / "a/.dvc").mkdir(parents=True)
    (tmp_path / "a/b/c").mkdir(parents=True)
    assert checkout_of(tmp_path / "a/b/c") == tmp_path / "a"
    assert checkout_of(tmp_path) == tmp_path
