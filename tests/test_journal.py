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
    (tmp_path / "j").write_bytes(b'{"switchnp job": "jo')

    with Journal(tmp_path / "j", "job") as journal:
        assert journal.entries == []
        journal.append(["one"])
    with Journal(tmp_path / "j", "job") as journal:
        assert journal.entries == [["one"]]
    with pytest.raises(FileError, match="is of another job"):
        Journal(tmp_path / "j", "other")


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


def test_a_job_that_nobody_listens_to_stops_and_keeps_its_journal(tmp_path):
    (tmp_path / "prompts.txt").write_text(prompts_of(600))

    with open(tmp_path / "prompts.txt") as prompts:
        run = subprocess.Popen([*GENERATE, "--resume", tmp_path / "journal"], stdin=prompts, stdout=subprocess.PIPE)
    run.stdout.readline()
    run.stdout.close()

    assert run.wait(60) == 0
    assert (tmp_path / "journal").read_bytes().count(b"\n") < 150


def test_a_journal_is_not_the_place_where_the_answers_go(tmp_path):
    with open(tmp_path / "out", "wb") as out:
        done = subprocess.run(
            [*GENERATE, "say in German: 84", "--resume", tmp_path / "out"], stdout=out, stderr=subprocess.PIPE, timeout=60
        )

    assert done.returncode == 1
    assert b"is where the answers go, expected another file for --resume" in done.stderr
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize("entry", ["[1]", "null", "NaN", '"abcd"', '["a"]', '[["a"], ["b"], ["c"], ["d"]]', "[" * 9000])
def test_an_entry_that_is_no_answer_is_refused(tmp_path, entry):
    command = [*GENERATE, *["say in German: 84"] * 5]
    subprocess.run([*command, "--resume", tmp_path / "journal"], stdout=subprocess.DEVNULL, check=True, timeout=60)
    kept = tmp_path / "journal"
    assert not kept.exists()
    header = header_of(command, tmp_path)
    kept.write_bytes(header + entry.encode() + b"\n")

    done = subprocess.run([*command, "--resume", kept], capture_output=True, timeout=60)

    assert (done.returncode, done.stdout) == (1, b"")
    assert b"which is a bug" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def header_of(command, tmp_path):
    """The first line of a command's journal."""
    with open(tmp_path / "full", "wb") as out:
        run = subprocess.Popen([*command, "--resume", tmp_path / "other"], stdout=out)
    while not ((tmp_path / "other").exists() and b"\n" in (tmp_path / "other").read_bytes()):
        assert run.poll() is None
        time.sleep(0.001)
    header = (tmp_path / "other").read_bytes().split(b"\n")[0] + b"\n"
    run.kill()
    run.wait()
    return header
