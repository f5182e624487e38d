from pathlib import Path

import pytest

from conffusion.cli import main
from tests.view.folders import made, read_index, write_predictions


def test_view_writes_a_page_beside_the_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_predictions(tmp_path / "with space é", {"a": made(0), "b": made(1)})
    assert main(["view", str(root)]) == 0
    assert "view.html: 2 images, N-Conffusion" in capsys.readouterr().out
    assert len(read_index(root / "view.html")["images"]) == 2


def test_view_reduces_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_predictions(tmp_path / "in", {"a": made(0), "b": made(1)})
    assert main(["view", str(root), "--max-side", "8", "--first", "1", "--output", str(tmp_path / "o" / "p.html")]) == 0
    assert "1 image," in (said := capsys.readouterr().out) and "reduced to at most 8 pixels" in said
    assert len(read_index(tmp_path / "o" / "p.html")["images"]) == 1


def test_view_says_what_a_path_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["absent"], "absent: is not a folder"),
        ([str(tmp_path / "empty")], "holds neither predictions"),
        ([str(write_predictions(tmp_path / "in", {"a": made(0)})), "--task", "inpainting"], "choose from a run"),
    ):
        assert main(["view", *arguments]) == 1
        assert message in capsys.readouterr().err
