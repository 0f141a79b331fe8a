"""What a session puts into a shared temporary directory is its user's alone."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Generator
from pathlib import Path

import pytest

from asyncpipes import open_pipes_session
from asyncpipes.channels.file import FileChannel
from asyncpipes.errors import ChannelError, PipesError
from asyncpipes.host.context_injectors import InjectedContext, TempFileContextInjector
from asyncpipes.protocol import codec
from asyncpipes.protocol.bootstrap import from_mapping
from asyncpipes.protocol.context import ContextData


@pytest.fixture(autouse=True)
def _anybody_may_do_anything() -> Generator[None, None, None]:
    """The weakest mask: what protects a file is the mode it was made with."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


async def test_the_files_of_a_session(temporary: Path) -> None:
    extras = {"secret": os.urandom(200_000).hex()}  # more than an environment variable holds
    async with open_pipes_session(extras=extras, strict=False) as session:
        bootstrap = session.bootstrap
        made = sorted(temporary.rglob("*"))
        directories = [path for path in made if path.is_dir()]
        files = [path for path in made if path.is_file()]
        assert len(directories) == 1
        assert len(files) == 2
        assert [mode(path) for path in directories] == [0o700]
        assert [mode(path) for path in files] == [0o600, 0o600]
        messages = Path(from_mapping(bootstrap, source="test").messages["path"])
        assert messages.parent in directories
        session.finish()


async def test_a_file_of_the_users_choice(tmp_path: Path) -> None:
    reader = await FileChannel(tmp_path / "messages").open_reader()
    try:
        assert mode(tmp_path / "messages") == 0o600
    finally:
        await reader.aclose()


async def test_a_link_put_there_later_is_not_followed_by_the_end(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    reader = await FileChannel(tmp_path / "messages").open_reader()
    (tmp_path / "messages").unlink()
    (tmp_path / "messages").symlink_to(victim)
    await reader.aclose()
    assert victim.read_text() == "precious"
    assert (tmp_path / "messages").is_symlink()  # not what the session made


async def test_a_link_inside_the_directory_of_a_session_is_removed_and_not_followed(
    temporary: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    reader = await FileChannel().open_reader()
    [directory] = temporary.iterdir()
    (directory / "link").symlink_to(precious)
    await reader.aclose()
    assert (precious / "file").read_text() == "x"
    assert not directory.exists()


async def test_the_context_file(temporary: Path) -> None:
    injected = await TempFileContextInjector().inject(ContextData(extras={"secret": 1}))
    path = str(injected.params["path"])
    assert mode(path) == 0o600
    content = await asyncio.to_thread(Path(path).read_bytes)
    assert codec.loads(content)["extras"] == {"secret": 1}
    await injected.aclose()
    assert not os.path.lexists(path)


async def test_no_directory_to_make_them_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(ChannelError, match=r"cannot create the messages file.*TMPDIR"):
        await FileChannel().open_reader()
    with pytest.raises(PipesError, match=f"cannot create a context file in {tmp_path}.*TMPDIR"):
        await TempFileContextInjector().inject(ContextData())
    await InjectedContext().aclose()
