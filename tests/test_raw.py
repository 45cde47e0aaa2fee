"""Raw files: where they are looked for, and that nothing damaged or hostile gets through."""

import errno
import gzip
import hashlib
import http.server
import io
import lzma
import stat
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from metaleaf import raw as raw_module
from metaleaf.errors import DataError
from metaleaf.raw import Published, RawFiles, UsedFile, data_home, published_files


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's data."""
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.delenv("METALEAF_RAW", raising=False)
    return tmp_path / "home"


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_data_home_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_home() == tmp_path / "home"
    monkeypatch.delenv("METALEAF_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_home() == Path("/cache/metaleaf")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_home() == Path.home() / ".cache" / "metaleaf"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in "METALEAF_DATA", "XDG_CACHE_HOME", "HOME":
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"no home folder .*: set METALEAF_DATA"):
        data_home()


def test_an_explicit_folder_is_the_only_place(
    publisher: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    for folder in "explicit", "shared/toy", "home/downloads/toy":
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text(folder, encoding="utf-8")
    for elsewhere in "shared/toy/b.txt", "home/downloads/toy/b.txt", "publisher/b.txt":
        (tmp_path / elsewhere).write_text("b", encoding="utf-8")
    publish(monkeypatch, Published(f"{publisher[0]}/b.txt", None, None, "b.txt"))
    monkeypatch.setenv("METALEAF_RAW", str(tmp_path / "shared"))
    raw = RawFiles("toy", tmp_path / "explicit")
    assert raw.find("a.txt") == tmp_path / "explicit/a.txt"
    assert raw.find("b.txt") is None
    with pytest.raises(DataError, match=r"no b\.txt in \S+/explicit/toy or \S+/explicit: get it"):
        raw.require(["b.txt"], "get it.")
    assert RawFiles("toy").find("a.txt") == tmp_path / "shared/toy/a.txt"
    assert RawFiles("toy", shown=False).require(["b.txt"], "get it.") == tmp_path / "shared/toy/b.txt"


def test_a_nearer_folder_beats_an_earlier_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    for place in "shared/toy/a.txt", "home/downloads/toy/b.txt":
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(place, encoding="utf-8")
    monkeypatch.setenv("METALEAF_RAW", str(tmp_path / "shared"))
    raw = RawFiles("toy")
    assert raw.find("b.txt", "a.txt") == tmp_path / "shared/toy/a.txt"
    assert raw.find("b.txt") == own_home / "downloads/toy/b.txt"
    assert raw.find("c.txt") is None


def test_links_to_folders_are_followed_each_folder_once(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/a.json").write_text("a", encoding="utf-8")
    (tmp_path / "real/deep/round").symlink_to(tmp_path / "real")
    (tmp_path / "raw/toy").mkdir(parents=True)
    for name in "one", "two":
        (tmp_path / "raw/toy" / name).symlink_to(tmp_path / "real")
    (tmp_path / "raw/toy/gone").symlink_to(tmp_path / "nowhere")
    raw = RawFiles("toy", tmp_path / "raw")
    assert raw.find_all("**/*.json") == [tmp_path / "raw/toy/one/deep/a.json"]
    assert raw.find_all("one/deep/*.json") == [tmp_path / "raw/toy/one/deep/a.json"]


def test_a_folder_of_several_datasets_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/a.txt").write_text("a")
    assert RawFiles("toy", tmp_path).find("a.txt") == tmp_path / "toy/a.txt"


def test_packed_files_are_found_opened_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.txt.xz").write_bytes(lzma.compress(b"alpha"))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"beta"))
    (tmp_path / "c.txt").write_bytes(b"gamma")
    raw = RawFiles("toy", tmp_path)
    for pattern, expected in ("**/a.txt", b"alpha"), ("b.txt", b"beta"), ("c.*", b"gamma"):
        path = raw.find(pattern)
        assert path is not None
        with raw.open(path) as file:
            assert file.read() == expected
    packed = (tmp_path / "deep/a.txt.xz").read_bytes()
    assert [used.name for used in raw.used()] == ["b.txt.gz", "c.txt", "deep/a.txt.xz"]
    assert raw.used()[2] == UsedFile("deep/a.txt.xz", len(packed), hashlib.sha256(packed).hexdigest(), "toy")


def test_what_is_missing_is_named_with_where_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"toy: no a.txt or b.txt in .*METALEAF_RAW is not set.*: get it\."):
        RawFiles("toy").require(["a.txt", "b.txt"], "get it.")
    with pytest.raises(DataError, match="nowhere does not exist"):
        RawFiles("toy", tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, suffix: str) -> None:
    pack = lzma.compress if suffix == ".xz" else gzip.compress
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(pack(bytes(range(256)) * 400)[:-30])
    with pytest.raises(DataError, match=r"a\.txt\.(xz|gz) is damaged or cut off"):
        RawFiles("toy", tmp_path).open(path).read()


def test_a_file_that_unpacks_without_end_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "bomb.xz"
    path.write_bytes(lzma.compress(bytes(50_000_000)))
    with (
        RawFiles("toy", tmp_path).open(path, limit=1_000_000) as file,
        pytest.raises(DataError, match="bomb"),
    ):
        file.read()


def test_zip_members_are_read_in_place(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"b/two": b"2", "a/one": b"1", "a/": b""})
    raw = RawFiles("toy", tmp_path)
    with raw.zip(path) as archive:
        assert archive.names() == ["a/one", "b/two"]
        assert archive.read("b/two") == b"2"
        with pytest.raises(DataError, match="no member 'c'"):
            archive.read("c")
    assert [used.name for used in raw.used()] == ["a.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "..\\evil", "C:\\evil"])
def test_a_member_outside_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    path = zip_of(tmp_path / "bad.zip", {"good": b"", name: b"evil"})
    with pytest.raises(DataError, match=r"bad\.zip.*evil.*outside"), RawFiles("toy", tmp_path).zip(path):
        pass


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("innocent")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'innocent' is a link"), RawFiles("toy", tmp_path).zip(path):
        pass


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"a": bytes(2_000_000), "b": bytes(2_000_000)})
    raw = RawFiles("toy", tmp_path)
    with pytest.raises(DataError, match="member 'a' would unpack to 2,000,000 bytes"):
        raw.zip(path, member_limit=1_000_000).__enter__()
    with pytest.raises(DataError, match=r"bomb\.zip is not used: it would unpack to 4,000,000"):
        raw.zip(path, limit=3_000_000).__enter__()


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "liar.zip", {"a": bytes(2_000_000)})
    honest = path.read_bytes()
    path.write_bytes(honest.replace((2_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with (
        RawFiles("toy", tmp_path).zip(path) as archive,
        pytest.raises(DataError, match=r"liar\.zip is damaged"),
    ):
        archive.read("a")


def test_damaged_zips_are_named(tmp_path: Path) -> None:
    raw = RawFiles("toy", tmp_path)
    path = zip_of(tmp_path / "cut.zip", {"a": bytes(range(256)) * 40})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.zip is damaged or cut off"):
        raw.zip(path).__enter__()
    path.write_bytes(whole[:60] + b"\xff\xff\xff" + whole[63:])
    with raw.zip(path) as archive, pytest.raises(DataError, match=r"cut\.zip is damaged"):
        archive.read("a")
    with pytest.raises(DataError, match=r"gone\.zip cannot be read"):
        raw.zip(tmp_path / "gone.zip").__enter__()


def test_a_zip_with_changed_offsets_is_named(tmp_path: Path) -> None:
    """zipfile seeks to where there is nothing; the system's error names no file, so that nothing else may come out."""
    path = zip_of(tmp_path / "moved.zip", {"a": bytes(100), "b": bytes(100)})
    whole = path.read_bytes()
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        with suppress(DataError), RawFiles("toy", tmp_path).zip(path) as archive:
            for name in archive.names():
                archive.read(name)


def test_what_happens_elsewhere_is_not_laid_to_a_raw_file(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a": bytes(100)})
    with pytest.raises(OSError, match="No space"), RawFiles("toy", tmp_path).zip(path):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("header", [(10**12,), (7,), (2, 2)])
def test_an_arrays_header_is_not_believed(tmp_path: Path, header: tuple[int, ...]) -> None:
    said = io.BytesIO()
    np.lib.format.write_array_header_1_0(said, {"descr": "<f8", "fortran_order": False, "shape": header})
    path = zip_of(tmp_path / "arrays.npz", {"a.npy": said.getvalue() + bytes(3 * 8)})
    with (
        RawFiles("toy", tmp_path).zip(path) as archive,
        pytest.raises(DataError, match=r"arrays.npz .*a.npy is not a whole"),
    ):
        archive.array("a.npy")


def test_the_checksums_that_are_shipped_can_be_read() -> None:
    assert [file.name for file in published_files("femnist")] == ["by_class.zip", "by_write.zip"]
    assert published_files("no_such_dataset") == []


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address and the folder it serves."""
    folder = tmp_path / "publisher"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()


def publish(monkeypatch: pytest.MonkeyPatch, *files: Published) -> None:
    monkeypatch.setattr(raw_module, "published_files", lambda dataset: list(files))


def test_a_download_is_checked_and_kept(
    publisher: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    url, folder = publisher
    (folder / "a.txt").write_bytes(b"alpha")
    publish(monkeypatch, Published(f"{url}/a.txt", 5, hashlib.sha256(b"alpha").hexdigest(), "a.txt"))
    path = RawFiles("toy", shown=False).require(["a.txt"], "get it.")
    assert path == own_home / "downloads/toy/a.txt"
    assert path.read_bytes() == b"alpha"
    (folder / "a.txt").unlink()
    assert RawFiles("toy", download=False).require(["a.txt"], "get it.") == path


@pytest.mark.parametrize("content", [b"alphA", b"alpha and more", b"alp"])
def test_another_file_than_the_known_one_is_refused(
    publisher: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, own_home: Path, content: bytes
) -> None:
    url, folder = publisher
    (folder / "a.txt").write_bytes(content)
    publish(monkeypatch, Published(f"{url}/a.txt", 5, hashlib.sha256(b"alpha").hexdigest(), "a.txt"))
    with pytest.raises(DataError, match=r"a\.txt is not the file we know"):
        RawFiles("toy", shown=False).require(["a.txt"], "get it.")
    assert list((own_home / "downloads/toy").iterdir()) == []


def test_a_publisher_who_is_not_there_is_named(
    publisher: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, own_home: Path
) -> None:
    publish(monkeypatch, Published(f"{publisher[0]}/b.txt", None, None, "b.txt"))
    with pytest.raises(DataError, match=r"b\.txt could not be downloaded .*404.*METALEAF_RAW/toy/"):
        RawFiles("toy", shown=False).require(["b.txt"], "get it.")
    with pytest.raises(DataError, match=r"no b\.txt"):
        RawFiles("toy", download=False).require(["b.txt"], "get it.")


def test_streams_can_be_wrapped_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress("naïve\nlines\n".encode()))
    raw = RawFiles("toy", tmp_path)
    with io.TextIOWrapper(raw.open(tmp_path / "a.txt.xz"), "utf-8") as lines:
        assert list(lines) == ["naïve\n", "lines\n"]
