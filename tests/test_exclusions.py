"""What coverage leaves out is listed and counted, and each has its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import exclusions

PYPROJECT = '[tool.coverage.report]\nexclude_also = [\n    "if TYPE_CHECKING:",{}\n]\n'


def project(folder: Path, source: str, reason: str = "  # what type checkers see") -> Path:
    (folder / "asyncpipes").mkdir()
    (folder / "asyncpipes" / "module.py").write_text(source)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(reason))
    return folder


def test_each_of_ours_has_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert exclusions.main() == 0
    assert "lines are left out of coverage" in capsys.readouterr().out


def test_they_are_listed_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (
        "x = 1  # pragma: no cover - only on another system\n"
        "y = '# pragma: no cover'\n"
        "if x:  # pragma: no branch - it is always true\n"
        "    pass\n"
        "if TYPE_CHECKING:\n    import z\n"
    )
    assert exclusions.main(project(tmp_path, source)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  asyncpipes/module.py:1  no cover: only on another system",
        "  asyncpipes/module.py:3  no branch: it is always true",
        "  pyproject.toml  if TYPE_CHECKING:: what type checkers see",
        "3 lines are left out of coverage",
    ]


@pytest.mark.parametrize(
    "comment",
    [
        "# pragma: no cover",
        "# pragma: no cover -",
        "# pragma: no cover - no",
        "# pragma: no branch x",
        "# PRAGMA NO COVER",
    ],
)
def test_one_without_a_reason_fails(
    comment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exclusions.main(project(tmp_path, f"x = 1  {comment}\n")) == 1
    assert "asyncpipes/module.py:1  no " in capsys.readouterr().out


def test_a_pattern_without_a_reason_fails(tmp_path: Path) -> None:
    assert exclusions.main(project(tmp_path, "x = 1\n", reason="")) == 1
