"""Bytes as text, of a folder, and the innermost folder that is there."""

import os
import subprocess

import pytest

from clcore.disk import bytes_in, bytes_text, innermost


def test_bytes_as_text():
    said = ["0 B", "7 B", "999 B", "1.5 kB", "2.5 MB", "3.0 GB", "40.0 TB", "1234.0 TB"]
    assert [bytes_text(count) for count in (0, 7, 999, 1500, 2.5e6, 3e9, 4e13, 1.234e15)] == said


def test_bytes_of_a_folder_are_those_of_du(tmp_path):
    folder = tmp_path / "home"
    for name, size in (("a", 3), ("deep/er/b", 1000), ("deep/.hidden", 20), ("deep/empty", 0)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    assert bytes_in(folder) == 1023
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(folder / "deep" / "er" / "b")
    (folder / "up").symlink_to(folder)
    (folder / "gone").symlink_to(tmp_path / "nothing")
    du = subprocess.run(
        ["find", folder, "(", "-type", "f", "-o", "-type", "l", ")", "-printf", "%s\n"], capture_output=True, text=True
    )
    links = sum(path.lstat().st_size for path in folder.iterdir() if path.is_symlink() and path.is_dir())
    assert bytes_in(folder) == sum(map(int, du.stdout.split())) - links
    assert bytes_in(tmp_path / "nothing") == 0


def test_files_and_folders_that_go_meanwhile_do_not_count(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"123")
    listed = os.walk

    def walk(folder):
        for found in listed(folder):
            yield found
            if found[0] == str(tmp_path):
                (tmp_path / "a" / "x").unlink()
                (tmp_path / "a").rmdir()

    monkeypatch.setattr(os, "walk", walk)
    assert bytes_in(tmp_path) == 3


@pytest.mark.parametrize(("path", "there"), [("", ""), ("a", "a"), ("a/b/c", "a"), ("x/y", ""), ("a/file/z", "a/file")])
def test_innermost(path, there, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").touch()
    assert innermost(tmp_path / path) == tmp_path / there
    monkeypatch.chdir(tmp_path)
    assert innermost(type(tmp_path)(path)) == tmp_path / there
