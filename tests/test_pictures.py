"""docs/record.py makes pictures of real runs, and they hold what they show themselves."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support import PATIENCE

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
SVG = "{http://www.w3.org/2000/svg}"

#: The width of a character, in the units of the picture.
CHARACTER = 12.2
#: What each picture is there to show.
SHOWN = {
    "tutorial": ["orders materialized", "no_empty_order_check of orders passed", "✓ ok after"],
    "jobs": ["✓ january", "✓ february", "5 jobs: 3 running, 2 ok", "━━"],
    "failing": ["failed (ERROR)", "✗ NOT OK after", "- the script failed: ValueError: order 2"],
}

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal"),
]


def shown(path: Path) -> str:
    """The text of a picture, a line a row. Fails if it is no SVG, or loads anything."""
    source = path.read_text()
    outside = set(re.findall(r"[a-z]+://[^\s\"')<]*", source))
    assert outside == {SVG.strip("{}")}, path  # the name of its language, which nobody fetches
    for word in ("@import", "@font-face", "<script", "<image", "href"):
        assert word not in source, f"{path}: {word}"
    root = ElementTree.fromstring(source)
    assert root.tag == f"{SVG}svg"
    rows: dict[str, str] = {}
    for text in root.iter(f"{SVG}text"):
        if text.get("clip-path"):
            y, column = text.attrib["y"], round(float(text.attrib["x"]) / CHARACTER)
            rows[y] = rows.get(y, "").ljust(column) + (text.text or "")
    return "\n".join(rows.values()).replace("\xa0", " ")


def check(path: Path) -> None:
    text = shown(path)
    assert text.startswith("$ asyncpipes run "), text
    for part in SHOWN[path.stem]:
        assert part in text, text


@pytest.mark.parametrize("name", SHOWN)
def test_a_run_is_recorded(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "record.py", tmp_path, name],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / name}.svg\n"
    check(tmp_path / f"{name}.svg")


@pytest.mark.parametrize("name", SHOWN)
def test_the_readme_shows_it(name: str) -> None:
    path = IMAGES / f"{name}.svg"
    check(path)
    assert f"]({path.relative_to(ROOT)})" in (ROOT / "README.md").read_text()


def test_a_moment_that_never_comes_is_an_error(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'docs'); import record\n"
        "picture = record.Picture('never', ['--version'], lambda lines: False)\n"
        f"record.record(picture, record.Path({str(tmp_path)!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )
    assert done.returncode == 1
    assert "RuntimeError: never: the moment did not come:\n$ asyncpipes --version" in done.stderr
    assert list(tmp_path.iterdir()) == []
