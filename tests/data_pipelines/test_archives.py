"""Archives of all kinds are unpacked whole; evil, damaged and incomplete ones are refused and write nothing outside."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_layouts import LAYOUTS

from data_pipelines.archives import members
from data_pipelines.archives.members import Limits
from data_pipelines.archives.parts import archives_in, groups, kind_of
from data_pipelines.archives.unpacking import unpack
from data_pipelines.manifest import PrepareError
from experiments import extract as command
from experiments import prepare as prepare_command

FILES = {f"images/{k}.bin": random.Random(k).randbytes(700 * k) for k in range(12)} | {"rows.jsonl": b"{}\n"}


def tar_of(files, kind="", change=None):
    """Bytes of a tar; `files` are name -> bytes or a TarInfo; `change` acts on every header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:
        for name, value in files.items():
            info = value if isinstance(value, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(value, bytes):
                info.size = len(value)
            if change:
                change(info)
            archive.addfile(info, io.BytesIO(value) if isinstance(value, bytes) else None)
    return buffer.getvalue()


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def saved(path, data):
    path.write_bytes(data)
    return path


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_every_kind_is_unpacked_and_unpacked_again(name, tmp_path):
    data = zip_of(FILES) if name == "a.zip" else tar_of(FILES, name[6:])
    file, out, seen = saved(tmp_path / name, data), tmp_path / "out", []
    counts = unpack((file,), out, Limits(), seen.append)
    assert content(out) == FILES and counts[:2] == (13, 0)
    assert sum(seen) > 0.9 * len(data) or name == "a.zip"
    (out / "images/3.bin").unlink()
    assert unpack((file,), out, Limits())[:2] == (1, 12) and content(out) == FILES


def test_parts_are_joined_in_the_order_of_their_numbers(tmp_path):
    data = tar_of(FILES, "gz")
    cuts = [len(data) * k // 11 for k in range(12)]
    parts = [saved(tmp_path / f"spar-{k}.tar.gz", data[cuts[k] : cuts[k + 1]]) for k in range(11)]  # 10 behind 9
    other = saved(tmp_path / "other.tar.gz", data)
    assert groups([*reversed(parts), other]) == [(other,), tuple(parts)]
    unpack(groups(parts)[0], tmp_path / "out", Limits())
    assert content(tmp_path / "out") == FILES
    with pytest.raises(PrepareError, match="follows spar-3.tar.gz: a part between them is missing"):
        groups(parts[:4] + parts[5:])
    with pytest.raises(PrepareError, match="spar-1.tar.gz does not begin as.*first part"):
        groups(parts[1:])
    with pytest.raises(PrepareError, match="damaged, truncated or lacks a part"):
        unpack(tuple(parts[:-1]), tmp_path / "short", Limits())
    plain = tar_of(FILES)
    split = [saved(tmp_path / f"b.tar.{e}", plain[k * 5120 : (k + 1) * 5120]) for k, e in enumerate(("aa", "ab", "ac"))]
    assert groups(split) == [tuple(split)]
    two = [saved(tmp_path / f"room{k}.tar", plain) for k in (1, 2)]  # numbered, and each whole
    assert groups(two) == [(two[0],), (two[1],)]


def info(name, kind, link=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, link
    return found


EVIL = {
    "up": ({"../evil": b"x"}, "leads out of the folder"),
    "up_inside": ({"a/../../evil": b"x"}, "leads out of the folder"),
    "absolute": ({"ABSOLUTE/evil": b"x"}, "leads out of the folder"),
    "drive": ({"C:\\evil": b"x"}, "leads out of the folder"),
    "link_out": ({"l": info("l", tarfile.SYMTYPE, "../evil")}, "leads out of the folder"),
    "link_absolute": ({"l": info("l", tarfile.SYMTYPE, "/etc/passwd")}, "links to '/etc/passwd', out of the folder"),
    "hard_link_out": ({"l": info("l", tarfile.LNKTYPE, "../secret")}, "leads out of the folder"),
    "link_to_nothing": ({"l": info("l", tarfile.SYMTYPE, "nothing")}, "links to 'nothing', which is no file"),
    "through_a_link": ({"l": info("l", tarfile.SYMTYPE, "."), "l/x": b"x"}, "is no file of the archive|where a file is"),
    "link_to_itself": ({n: info(n, tarfile.SYMTYPE, o) for n, o in ("lm", "ml")}, "is a link that leads to itself"),
    "link_to_a_folder": ({"f/x": b"x", "l": info("l", tarfile.SYMTYPE, "f")}, "links to 'f', which is no file"),
    "link_out_by_a_link": (
        {"l": info("l", tarfile.SYMTYPE, "m"), "m": info("m", tarfile.SYMTYPE, "../secret")}, "leads out of the folder",
    ),
    "device": ({"d": info("d", tarfile.CHRTYPE)}, "is a device"),
    "pipe": ({"p": info("p", tarfile.FIFOTYPE)}, "is a device, a pipe"),
    "file_as_folder": ({"a": b"x", "a/b": b"y"}, "needs a folder where a file is|Not a directory|differs"),
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_evil_members_are_refused_and_write_nothing_outside(name, tmp_path):
    files, message = EVIL[name]
    files = {member.replace("ABSOLUTE", str(tmp_path)): value for member, value in files.items()}
    saved(tmp_path / "secret", b"secret")
    before = set(os.listdir(tmp_path)) | {"a.tar", "out"}
    file = saved(tmp_path / "a.tar", tar_of({"good.bin": b"good"} | files))
    with pytest.raises(PrepareError, match=f"a.tar.*({message})"):
        unpack((file,), tmp_path / "out", Limits())
    assert set(os.listdir(tmp_path)) == before
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    if all(isinstance(value, bytes) for value in files.values()) and name != "file_as_folder":
        file = saved(tmp_path / "a.zip", zip_of({"good.bin": b"good"} | files))
        with pytest.raises(PrepareError, match=message):
            unpack((file,), tmp_path / "zipped", Limits())
        assert not content(tmp_path / "zipped")  # a zip is looked through before


def test_links_in_the_folder_are_not_followed_out_of_it(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PrepareError, match="through a link"):
        unpack((saved(tmp_path / "a.tar", tar_of(FILES)),), tmp_path / "out", Limits())
    assert not content(tmp_path / "elsewhere")


def test_links_to_files_of_the_archive_become_copies(tmp_path):
    files = {"a/l": info("a/l", tarfile.SYMTYPE, "../b/x"), "h": info("h", tarfile.LNKTYPE, "b/x"), "b/x": b"data"}
    unpack((saved(tmp_path / "a.tar", tar_of(files)),), tmp_path / "out", Limits())
    assert content(tmp_path / "out") == {"a/l": b"data", "h": b"data", "b/x": b"data"}
    chain = {
        "c": info("c", tarfile.SYMTYPE, "a/l"),
        "d": info("d", tarfile.LNKTYPE, "c"),
    } | files  # links to later links
    unpack((saved(tmp_path / "c.tar", tar_of(chain)),), tmp_path / "chain", Limits())
    assert content(tmp_path / "chain") == dict.fromkeys(["a/l", "h", "b/x", "c", "d"], b"data")
    assert unpack((tmp_path / "c.tar",), tmp_path / "chain", Limits())[:2] == (0, 5)
    link = zipfile.ZipInfo("l")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(PrepareError, match="'l' is a link or device"):
        unpack((tmp_path / "l.zip",), tmp_path / "zipped", Limits())


def test_nothing_that_differs_is_overwritten(tmp_path):
    file = saved(tmp_path / "a.tar", tar_of(FILES))
    (tmp_path / "out/images").mkdir(parents=True)
    for other in (b"mine", FILES["images/5.bin"][:-1] + b"?"):  # another size, and of one size
        saved(tmp_path / "out/images/5.bin", other)
        with pytest.raises(PrepareError, match="'images/5.bin' is there already and differs.*Nothing was overwritten"):
            unpack((file,), tmp_path / "out", Limits())
        assert (tmp_path / "out/images/5.bin").read_bytes() == other
    assert not (tmp_path / "out/.unpacking").exists() and not (tmp_path / "out/images/6.bin").exists()


def test_bombs_stop_early(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "_RATIO_FROM", 1 << 20)
    bomb = {"zeros": bytes(1 << 23)}
    for file in (saved(tmp_path / "b.tar.gz", tar_of(bomb, "gz")), saved(tmp_path / "b.zip", zip_of(bomb))):
        with pytest.raises(PrepareError, match="ratio"):
            unpack((file,), tmp_path / "out", Limits())
        assert not content(tmp_path / "out")
        unpack((file,), tmp_path / file.name[2:], Limits(ratio=1e9))
    with pytest.raises(PrepareError, match="unpacks to more than 1e\\+04 bytes"):
        unpack((saved(tmp_path / "a.tar", tar_of(FILES)),), tmp_path / "big", Limits(size=1e4))
    long = tar_of({"x" * 200: b"x"}, change=None)  # its name stands in a header of its own
    assert long[156:157] in b"xL"
    head = bytearray(long[:512])
    head[124:136] = b"77777777777\0"  # 8 GiB of name
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    file = tmp_path / "h.tar.gz"
    with gzip.open(file, "wb", 1) as data:
        data.write(bytes(head) + bytes(1 << 24))
    tracemalloc.start()
    with pytest.raises(PrepareError, match="A header of 8589934591 bytes"):
        unpack((file,), tmp_path / "head", Limits(ratio=1e9))
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_full_disk_is_noticed_before(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=(1 << 30) + 10_000)
    monkeypatch.setattr(members.shutil, "disk_usage", lambda path: usage)
    for name, data in (("a.tar", tar_of(FILES)), ("a.zip", zip_of(FILES))):
        with pytest.raises(PrepareError, match="Make room; the same command goes on"):
            unpack((saved(tmp_path / name, data),), tmp_path / "out", Limits())
        assert not content(tmp_path / "out")


def test_truncated_and_locked_archives_are_named(tmp_path):
    plain = tar_of(FILES)
    at = plain.index(b"images/7.bin")  # cut where a member begins, too: no byte of a file is missing there
    for name, data in (
        ("a.tar", plain[:at]), ("b.tar", plain[: at + 700]), ("c.tar.gz", tar_of(FILES, "gz")[:-9]), ("d.zip", zip_of(FILES)[:-40]),
    ):  # fmt: skip
        with pytest.raises(PrepareError, match=f"{name}.*(truncated|damaged)"):
            unpack((saved(tmp_path / name, data),), tmp_path / name[0], Limits())
    with pytest.raises(PrepareError, match="does not begin as"):
        groups([saved(tmp_path / "no.tar", b"text")])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_damage_is_a_message_and_stays_inside(tmp_path_factory, seed):
    draw, place = random.Random(seed), tmp_path_factory.getbasetemp() / "fuzzed_archive"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    small = {name: data[:600] for name, data in list(FILES.items())[:3]} | {"x" * 150: b"1"}
    data = bytearray(draw.choice((zip_of(small), tar_of(small), tar_of(small, "gz"))))
    for _ in range(draw.choice((1, 4, 30))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    file = saved(place / "a.bin", bytes(data[: draw.choice((len(data), draw.randrange(len(data))))]))
    try:
        if kind_of(file):
            unpack((file,), place / "out", Limits(size=1e6))
    except PrepareError as error:
        assert "a.bin" in str(error) or "header" in str(error)
    assert set(os.listdir(place)) <= {"a.bin", "out"}
    assert not any(path.is_symlink() for path in (place / "out").rglob("*"))


def test_the_command_and_what_a_dry_run_says(tmp_path, capsys):
    raw = shutil.copytree(LAYOUTS / "sevenscenes", tmp_path / "raw")
    scene = Path(raw) / "chess"
    inner = zip_of({f"seq-01/{name}": data for name, data in content(scene / "seq-01").items()})
    shutil.rmtree(scene / "seq-01")
    saved(raw / "chess.zip", zip_of({"chess/seq-01.zip": inner}))
    look = ["--source", "sevenscenes", "--raw", str(raw), "--camera", "58,58,32,24", "--dry_run"]
    assert prepare_command.main(look) == 1
    assert "1 archives lie in" in (said := capsys.readouterr().err) and "experiments.extract --archives" in said
    assert command.main(["--archives", str(raw / "chess.zip"), "--raw", str(raw)]) == 0
    assert "1 files written" in (said := capsys.readouterr().out) and "Archives were inside" in said
    assert archives_in(raw) == [raw / "chess.zip", scene / "seq-01.zip"]
    assert command.main(["--archives", str(scene / "seq-01.zip"), "--raw", str(scene), "--quiet"]) == 0
    assert prepare_command.main(look) == 0 and "chess.seq-01: 4 frames" in capsys.readouterr().out
    assert command.main(["--archives", str(raw / "none.zip"), "--raw", str(raw)]) == 1
    assert "none.zip is not there" in capsys.readouterr().err
