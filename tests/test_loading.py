"""A file that changes or goes while it is loaded makes one model or one error."""

import os
import shutil

import pytest
from references import ROOT

import switchnp
from switchnp import Routing, weights
from switchnp.errors import FileError

NUMBERS = ROOT / "weights/switch-numbers.h5"


@pytest.fixture
def path(tmp_path):
    return shutil.copy(NUMBERS, tmp_path / "m.h5")


@pytest.mark.parametrize("engine", ["fast", "kernels"])
def test_a_file_that_is_replaced_meanwhile_is_one_of_the_two(path, tmp_path, monkeypatch, engine):
    other = switchnp.load(NUMBERS, routing=Routing.paper())
    other.save(tmp_path / "other.h5")
    read_header = weights.read_header

    def read_and_replace(name):
        found = read_header(name)
        os.replace(tmp_path / "other.h5", name)
        return found

    monkeypatch.setattr(weights, "read_header", read_and_replace)

    assert switchnp.load(path, engine=engine).routing == other.routing


def test_a_file_that_goes_meanwhile_is_an_error_of_the_file(path, monkeypatch):
    read_header = weights.read_header

    def read_and_remove(name):
        found = read_header(name)
        os.unlink(name)
        return found

    monkeypatch.setattr(weights, "read_header", read_and_remove)

    with pytest.raises(FileError, match=r"m\.h5 cannot be read: No such file or directory"):
        switchnp.load(path)
