from __future__ import annotations

import pytest

from tools import progress as module


def test_without_a_terminal_a_line_tells_count_rate_and_what_is_left(monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    with module.PlainProgress(10, "photos", initial=2) as bar:
        bar.set_postfix(loss="0.5")
        bar.update()
    line = capsys.readouterr().out
    assert line.startswith("3/10 photos, ")
    assert " min left, loss=0.5\n" in line


@pytest.mark.parametrize("total", [0, None])
def test_an_unknown_total_is_left_out(monkeypatch, capsys, total) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    with module.PlainProgress(total, "photos") as bar:
        bar.update()
    assert capsys.readouterr().out.startswith("1 photos, ")


def test_lines_are_seldom(capsys) -> None:
    with module.progress(1000, "photos") as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr().out == ""
