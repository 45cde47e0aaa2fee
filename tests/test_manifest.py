"""Prepared folders that were changed after they were made: refused in one sentence, and opened in no time otherwise."""

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from metaleaf.cli import main
from metaleaf.data import manifest
from metaleaf.data.client_store import ClientStore
from metaleaf.data.prepare import load, prepare
from metaleaf.dataset import Client, Spec
from metaleaf.errors import DataError, StaleError
from metaleaf.files import verified
from metaleaf.raw import RawFiles, data_home, sha256_of


@dataclass(frozen=True)
class Letters:
    """Letters, of which the raw file has some more."""

    clients_: int = 5
    more: str = ""
    spec: ClassVar[Spec] = Spec("1.0.0", (3,), "float32", 7, "logistic", "CC0", "", "", window=2)

    def clients(self, raw: RawFiles) -> Iterator[Client]:
        """One client after the other."""
        path = raw.find("letters.txt")
        shift = float(path.read_text()) if path else 0.0
        shift += float(Path(self.more).read_text()) if self.more else 0.0
        draw = np.random.default_rng(0)
        for i in range(self.clients_):
            x = (draw.normal(size=(4, 3)) + shift).astype(np.float32)
            yield Client(f"client {i}", "all", x, draw.integers(0, 7, 4).astype(np.uint8))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METALEAF_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("METALEAF_RAW", str(tmp_path / "raw"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def opened(**options: Any) -> ClientStore:
    return load("letters", Letters(), progress=False, **options)


def content(directory: Path) -> tuple[Any, ...]:
    store = ClientStore.open(directory)
    arrays = (store.x, store.y, store.offsets, store.ids, store.environments)
    return (*(np.array(array).tolist() for array in arrays), dict(store.about))


@pytest.mark.parametrize("name", [*(f"{array}.npy" for array in manifest.ARRAYS), "about.json", "verified.json"])
def test_a_changed_byte_is_refused_or_changes_nothing(name: str) -> None:
    directory = prepare("letters", Letters(), progress=False)
    before = content(directory)
    path = directory / name
    verified.Verified(directory).save()
    if name == "verified.json" and not path.exists():
        path.write_text("{}")
    whole, draw, harmless = path.read_bytes(), random.Random(name), 0
    places = [*range(min(12, len(whole))), *(draw.randrange(len(whole)) for _ in range(30))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            found = content(directory)
        except DataError as error:
            said = str(error)
        else:
            said, harmless = "prepare it again", harmless + 1
            assert found == before, f"byte {place} of {name} changed what was read"
        assert "prepare it again" in said
        assert "\n" not in said
    if name.endswith(".npy"):
        assert harmless == 0, "every byte of an array is covered by its hash"
    path.write_bytes(whole)
    assert content(directory) == before


@pytest.mark.parametrize("how", ["cut", "empty", "gone", "folder"])
@pytest.mark.parametrize("name", [*(f"{array}.npy" for array in manifest.ARRAYS), "about.json"])
def test_a_file_that_is_not_whole_is_refused(name: str, how: str) -> None:
    directory = prepare("letters", Letters(), progress=False)
    path = directory / name
    whole = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes(whole[:-3] if how == "cut" else b"")
    with pytest.raises(DataError, match=name) as found:
        ClientStore.open(directory)
    assert "prepare it again" in str(found.value)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("x_shape", "3"),
        ("x_shape", [3.5]),
        ("x_shape", [4]),
        ("x_dtype", "float31"),
        ("x_dtype", "int64"),
        ("classes", "7"),
        ("classes", True),
        ("window", None),
    ],
)
def test_a_manifest_of_other_types_is_refused(part: str, value: Any) -> None:
    """Also where nothing says that it was changed, as in our first manifests."""
    directory = prepare("letters", Letters(), progress=False)
    about = json.loads((directory / "about.json").read_text())
    del about["about_hash"]
    about["spec"][part] = value
    (directory / "about.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="prepare it again"):
        ClientStore.open(directory)


def test_files_are_read_once_to_be_verified(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = prepare("letters", Letters(), progress=False)
    monkeypatch.setattr(verified, "SETTLED", -1)
    (directory / "verified.json").unlink()
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(verified, "sha256_of", counted)
    ClientStore.open(directory)
    assert sorted(read) == sorted(f"{array}.npy" for array in manifest.ARRAYS)
    ClientStore.open(directory)
    assert len(read) == 5
    shutil.copy2(directory / "y.npy", home / "y.npy")
    (home / "y.npy").replace(directory / "y.npy")
    ClientStore.open(directory)
    assert read[5:] == ["y.npy"], "another inode with the same content, size and time"
    moved = directory.rename(directory.with_name("moved"))
    ClientStore.open(moved)
    assert len(read) == 6


def test_a_change_in_the_moment_after_another_is_seen() -> None:
    """Two changes within a tick of the file system's clock have one time: what is so young is not remembered."""
    directory = prepare("letters", Letters(), progress=False)
    path = directory / "y.npy"
    for _ in range(20):
        whole = path.read_bytes()
        path.write_bytes(whole)
        ClientStore.open(directory)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError):
            ClientStore.open(directory)
        path.write_bytes(whole)


def test_where_the_folder_cannot_be_written_the_cache_remembers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = prepare("letters", Letters(), progress=False)
    monkeypatch.setattr(verified, "SETTLED", -1)
    (directory / "verified.json").unlink()
    (directory / "verified.json").mkdir()  # not even the superuser can write that
    ClientStore.open(directory)
    assert list((home / "cache" / "metaleaf" / "verified").glob("*.json"))
    monkeypatch.setattr(verified, "sha256_of", lambda path: pytest.fail(f"{path} was read again"))
    ClientStore.open(directory)


# ----------------------------------------------------------------------------------------------------- raw files


def raw_file(home: Path, text: str, folder: str = "raw") -> Path:
    path = home / folder / "letters" / "letters.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_changed_raw_file_is_a_question(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = raw_file(home, "1")
    first = opened()
    path.touch()
    assert opened().about == first.about, "the same content"
    path.write_text("2")
    with pytest.raises(StaleError, match=r"was prepared from another letters.txt than .*/letters.txt: add --again"):
        opened()
    assert opened(stale="keep").about == opened(stale="keep").about == first.about
    assert capsys.readouterr().err.count("it is kept") == 1
    second = opened(stale="again")
    assert np.allclose(second.x - first.x, 1)
    assert opened().about == second.about
    path.unlink()
    assert opened().about == second.about, "raw files may go"


def test_a_raw_folder_that_is_named_is_that_of_the_data(home: Path) -> None:
    raw_file(home, "1")
    first = opened()
    raw_file(home, "1", "same")
    assert opened(raw=home / "same").about == first.about
    raw_file(home, "2", "other")
    with pytest.raises(StaleError, match=r"from another letters.txt than"):
        opened(raw=home / "other")
    (home / "none").mkdir()
    with pytest.raises(StaleError, match=r"from a letters.txt that is not in"):
        opened(raw=home / "none")
    with pytest.raises(DataError, match="does not exist"):
        opened(raw=home / "nowhere")


def test_a_file_that_an_option_names_counts(home: Path) -> None:
    table = home / "table.txt"
    table.write_text("1")
    dataset = Letters(more=str(table))
    load("letters", dataset, progress=False)
    table.write_text("3")
    with pytest.raises(StaleError, match=r"from another .*table.txt than"):
        load("letters", dataset, progress=False)


def test_a_raw_file_that_changes_while_it_is_read_stops_the_preparation(home: Path) -> None:
    path = raw_file(home, "1")
    raw = RawFiles("letters")
    raw.find("letters.txt")
    path.write_text("12")
    with pytest.raises(DataError, match="has changed while it was read"):
        raw.used()


def test_data_of_before_manifests_had_hashes_is_taken(home: Path) -> None:
    path = raw_file(home, "1")
    directory = prepare("letters", Letters(), progress=False)
    about = json.loads((directory / "about.json").read_text())
    del about["about_hash"], about["source_hash"], about["raw"][0]["dataset"]
    (directory / "about.json").write_text(json.dumps(about))
    (directory / "verified.json").unlink()
    assert opened().about == about
    path.write_text("2")
    with pytest.raises(StaleError):
        opened()


def test_the_command_line_offers_the_choice(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a built-in dataset, whose manifest says that other code has made it."""
    words = ["data", "prepare", "synthetic", "--options", "tasks=5"]
    assert main(words) == 0
    [directory] = [path for path in (data_home() / "synthetic").iterdir() if path.is_dir()]
    about = json.loads((directory / "about.json").read_text())
    manifest.write(directory, {**about, "source_hash": "0" * 64})
    capsys.readouterr()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "was prepared by other code than its plugin has now: add --again" in said
    assert len(said.strip().splitlines()) == 1
    assert main([*words, "--keep"]) == 0
    assert main(words) == 2
    assert main([*words, "--again"]) == 0
    assert main(words) == 0
