"""Compiled code is read where it lies, also where nothing can be written."""

import runpy
import tempfile

import pytest
from numba.core import config

from switchnp.kernels.jit import jit


def _function(x):
    return x + 1


@pytest.fixture
def unwritable(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    return lambda: monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


def test_a_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch, unwritable):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    first = jit()(_function)
    assert first(1) == 2
    unwritable()

    again = jit()(_function)

    assert again(1) == 2
    assert again._cache.cache_path == first._cache.cache_path
    assert again._cache.cache_path.startswith(str(tmp_path))
    assert sum(again.stats.cache_hits.values()) == 1


def test_a_folder_that_cannot_be_written_and_has_nothing_is_no_place(tmp_path, monkeypatch, unwritable):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    unwritable()

    kernel = jit()(_function)

    assert kernel(1) == 2
    assert not str(kernel._cache.cache_path).startswith(str(tmp_path))


def test_a_function_outside_the_compiled_rooms_is_compiled_anew_when_its_file_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    source = tmp_path / "elsewhere.py"
    answers = []

    for body in ("x + 1", "x + 10"):
        source.write_text(f"def f(x):\n    return {body}\n")
        answers.append(jit()(runpy.run_path(source)["f"])(1))

    assert answers == [2, 11]
