"""A job that is killed and goes on: what is kept, what is dropped, and whose it is."""

import os
import signal
import subprocess
import sys
import time

import pytest
from references import ROOT

from switchnp.errors import FileError
from switchnp.journal import Journal

NUMBERS = ROOT / "weights/switch-numbers.h5"
GENERATE = [sys.executable, "-m", "switchnp", "generate", NUMBERS, "--batch-size", "4"]


def test_entries_of_an_earlier_run_are_there_in_order(tmp_path):
    with Journal(tmp_path / "j", "job") as journal:
        assert journal.entries == []
        journal.append(["one"])
        journal.append(["two", "größe\n"])

    with Journal(tmp_path / "j", "job") as journal:
        assert journal.entries == [["one"], ["two", "größe\n"]]
        journal.remove()
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_that_was_cut_off_is_dropped_and_the_next_stands_in_its_place(tmp_path, cut):
    with Journal(tmp_path / "j", "job") as journal:
        journal.append(["one"])
        journal.append(["second"])
    raw = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(raw[:-cut])

    with Journal(tmp_path / "j", "job") as journal:
        assert journal.entries == [["one"]]
        journal.append(["second"])
    assert (tmp_path / "j").read_bytes() == raw


def test_a_journal_that_was_cut_in_its_first_line_begins_anew(tmp_path):
    (tmp_path / "j").write_bytes(b'{"switchnp j')

    with pytest.raises(FileError, match="is of another job"):
        Journal(tmp_path / "j", "job")


def test_another_jobs_journal_is_left_alone(tmp_path):
    with Journal(tmp_path / "j", "job") as journal:
        journal.append(["one"])
    before = (tmp_path / "j").read_bytes()

    with pytest.raises(FileError, match="is of another job: other prompts, settings or weights"):
        Journal(tmp_path / "j", "other")
    (tmp_path / "poem").write_text("roses\nare red\n")
    with pytest.raises(FileError, match="is not the journal of a job"):
        Journal(tmp_path / "poem", "job")

    assert (tmp_path / "j").read_bytes() == before
    assert (tmp_path / "poem").read_text() == "roses\nare red\n"


def test_two_runs_do_not_share_a_journal(tmp_path):
    with Journal(tmp_path / "j", "job"), pytest.raises(FileError, match="is in use by another run"):
        Journal(tmp_path / "j", "job")


@pytest.mark.parametrize("name", [".", "missing/j"])
def test_a_place_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(FileError):
        Journal(tmp_path / name, "job")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(FileError, match="not a regular file"):
        Journal(tmp_path / "pipe", "job")


def prompts_of(count):
    return "".join(f"say in {language}: {n}\n" for n in range(1000, 1000 + count // 2) for language in ("French", "German"))


def test_a_job_that_is_killed_and_resumed_answers_as_if_it_had_not_been(tmp_path):
    (tmp_path / "prompts.txt").write_text(prompts_of(1000))
    command = [*GENERATE[:-1], "20", "--max-new-tokens", "8"]
    kills = 0

    with open(tmp_path / "prompts.txt") as prompts, open(tmp_path / "whole.txt", "wb") as answers:
        subprocess.run(command, stdin=prompts, stdout=answers, check=True, timeout=300)
    while True:
        with open(tmp_path / "prompts.txt") as prompts, open(tmp_path / "answers.txt", "wb") as answers:
            run = subprocess.Popen([*command, "--resume", tmp_path / "journal"], stdin=prompts, stdout=answers)
        kills += killed_midway(run, tmp_path / "journal", kills)
        if run.wait(300) == 0:
            break

    assert kills == 2
    assert (tmp_path / "answers.txt").read_bytes() == (tmp_path / "whole.txt").read_bytes()
    assert (tmp_path / "answers.txt").read_bytes().count(b"\n") == 1000
    assert not (tmp_path / "journal").exists()


def killed_midway(run, journal, kills):
    """Kill a run once its journal has grown by some answers, twice in all; 1 if it was."""
    before = journal.stat().st_size if journal.exists() else 0
    while kills < 2 and run.poll() is None:
        if journal.exists() and journal.stat().st_size > before + 3000:
            run.send_signal(signal.SIGKILL)
            return 1
        time.sleep(0.005)
    return 0


def test_an_interrupted_job_says_so_and_keeps_what_was_answered(tmp_path):
    (tmp_path / "prompts.txt").write_text(prompts_of(400))

    with open(tmp_path / "prompts.txt") as prompts:
        run = subprocess.Popen(
            [*GENERATE, "--resume", tmp_path / "journal"], stdin=prompts, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    first = run.stdout.readline()
    run.send_signal(signal.SIGINT)
    rest, said = run.communicate(timeout=60)

    assert run.returncode == 130
    assert said.decode().splitlines()[-1] == "switchnp: interrupted"
    assert first
    assert (tmp_path / "journal").stat().st_size > 100
    assert (first + rest).count(b"\n") < 400
