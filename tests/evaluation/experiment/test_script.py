from pathlib import Path

import pytest

from veltair.evaluation.experiment.script import logged


def fail(log: Path, error: Exception) -> str:
    """Return what a script that raises ends with."""
    with pytest.raises(SystemExit) as ended, logged(str(log)):
        print("working", flush=True)
        raise error
    return str(ended.value.code)


def test_what_is_printed_is_on_the_terminal_and_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logged(str(tmp_path / "step.log")):
        print("half done", flush=True)
    assert capsys.readouterr().out == "half done\n"
    assert (tmp_path / "step.log").read_text() == "half done\n"


def test_an_error_ends_the_script_with_its_message_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "step.log"
    assert fail(log, ValueError("no such layer")) == f"error: no such layer\n(the trace is in {log})"
    assert "Traceback" not in "".join(capsys.readouterr())


def test_the_trace_is_in_the_log_after_what_was_printed(tmp_path: Path) -> None:
    fail(tmp_path / "step.log", ValueError("no such layer"))
    text = (tmp_path / "step.log").read_text()
    assert text.startswith("working\nTraceback (most recent call last):")
    assert text.endswith("ValueError: no such layer\n")


def test_the_exit_status_of_a_failed_script_is_not_zero(tmp_path: Path) -> None:
    # sys.exit of a text prints it and exits with 1.
    assert fail(tmp_path / "step.log", LookupError("x")) not in ("", "0")


def test_an_error_without_a_message_is_named_by_its_kind(tmp_path: Path) -> None:
    assert fail(tmp_path / "step.log", MemoryError()).startswith("error: MemoryError\n")


def test_the_folder_of_the_log_is_made(tmp_path: Path) -> None:
    with logged(str(tmp_path / "new" / "step.log")):
        pass
    assert (tmp_path / "new" / "step.log").exists()


def test_a_second_run_replaces_the_log(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with logged(str(tmp_path / "step.log")):
            print(text)
    assert (tmp_path / "step.log").read_text() == "second\n"


def test_an_interruption_is_no_error_of_the_script(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), logged(str(tmp_path / "step.log")):
        raise KeyboardInterrupt
