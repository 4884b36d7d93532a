import errno
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from veltair.machine.c_build import FLAGS, NativeBuildError, compile_c, default_build_dir

ANSWER = '#include <stdio.h>\nint main(void) { printf("%d", 6 * 7); return 0; }\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.c"
    path.write_text(ANSWER)
    return path


def fake_gcc(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a gcc first on PATH that answers questions about itself and runs `script` to compile."""
    folder.mkdir()
    program = folder / "gcc"
    program.write_text(
        '#!/bin/sh\ncase "$*" in\n*--version*|*--help=target*) echo made-up; exit 0;;\n'
        f'-MM*) for last; do :; done; echo "it: $last"; exit 0;;\nesac\n{script}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_source_is_compiled_to_a_program_that_runs(source: Path, tmp_path: Path) -> None:
    program = compile_c(source, tmp_path / "new" / "build")
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"42"


def test_nothing_but_the_program_is_left_in_the_build_folder(source: Path, tmp_path: Path) -> None:
    program = compile_c(source, tmp_path / "build")
    assert list((tmp_path / "build").iterdir()) == [program]


def test_an_unchanged_source_is_not_compiled_again(source: Path, tmp_path: Path) -> None:
    program = compile_c(source, tmp_path / "build")
    program.write_bytes(b"kept")
    assert compile_c(source, tmp_path / "build").read_bytes() == b"kept"


def test_a_changed_source_gets_another_path(source: Path, tmp_path: Path) -> None:
    before = compile_c(source, tmp_path / "build")
    source.write_text(ANSWER.replace("7", "8"))
    assert compile_c(source, tmp_path / "build") != before


def test_a_change_of_what_a_source_includes_gets_another_path(source: Path, tmp_path: Path) -> None:
    source.write_text(f'#include "a part.h"\n{ANSWER}')
    paths = set()
    for text in ("// one\n", "// two\n"):
        (tmp_path / "a part.h").write_text(text)
        paths.add(compile_c(source, tmp_path / "build"))
    assert len(paths) == 2


def test_an_include_that_is_missing_is_named(source: Path, tmp_path: Path) -> None:
    source.write_text(f'#include "gone.h"\n{ANSWER}')
    with pytest.raises(NativeBuildError, match=r"read what answer\.c includes(.|\n)*gone\.h"):
        compile_c(source, tmp_path / "build")


def test_other_flags_get_another_path(source: Path, tmp_path: Path) -> None:
    assert compile_c(source, tmp_path / "build") != compile_c(source, tmp_path / "build", ("-O0",))


def test_another_compiler_gets_another_path(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = compile_c(source, tmp_path / "build")
    fake_gcc(tmp_path / "bin", monkeypatch, "exit 0")
    assert compile_c(source, tmp_path / "build") != before


def test_a_shared_library_ends_in_so(tmp_path: Path) -> None:
    source = tmp_path / "twice.c"
    source.write_text("int twice(int x) { return 2 * x; }\n")
    assert compile_c(source, tmp_path / "build", (*FLAGS, "-shared", "-fPIC")).suffix == ".so"


def test_builds_side_by_side_give_one_whole_program(source: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: compile_c(source, tmp_path / "build"), range(4)))
    assert list((tmp_path / "build").iterdir()) == list(paths)


def test_a_missing_compiler_is_named_with_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(NativeBuildError, match=r"gcc was not found on PATH.*apt-get install gcc"):
        compile_c(source, tmp_path / "build")


def test_a_source_with_an_error_shows_what_gcc_said_and_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "broken.c"
    source.write_text("int main(void) { return nothing; }\n")
    with pytest.raises(NativeBuildError, match=r"compile broken\.c(.|\n)*nothing.* undeclared"):
        compile_c(source, tmp_path / "build")
    assert list((tmp_path / "build").iterdir()) == []


def test_a_disk_full_while_compiling_says_so_and_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # gcc leaves part of its output behind and complains, as the real one does on a full disk.
    script = (
        'while [ "$1" != -o ]; do shift; done; printf half > "$2"\n'
        'echo "final link failed: No space left on device" >&2; exit 1'
    )
    fake_gcc(tmp_path / "bin", monkeypatch, script)
    with pytest.raises(NativeBuildError, match=r"No space left on device; free space there"):
        compile_c(source, tmp_path / "build")
    assert list((tmp_path / "build").iterdir()) == []


@pytest.mark.parametrize("operation", ["mkdir", "replace"])
def test_a_disk_full_while_writing_the_folder_says_so_and_leaves_no_half_program(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, operation, fail)
    with pytest.raises(NativeBuildError, match=r"cannot write .*No space left on device; free space"):
        compile_c(source, tmp_path / "build")
    assert list(tmp_path.glob("build/*")) == []


def test_a_build_folder_that_is_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "build").write_text("in the way")
    with pytest.raises(NativeBuildError, match="cannot write into build folder"):
        compile_c(source, tmp_path / "build")


def test_compiled_code_is_kept_in_the_user_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_build_dir() == tmp_path / ".cache" / "veltair"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert default_build_dir() == tmp_path / "elsewhere" / "veltair"


def test_a_home_that_is_no_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    with pytest.raises(NativeBuildError, match=r"HOME is /dev/null, which is no folder; set XDG_CACHE_HOME"):
        default_build_dir()


def test_a_user_without_any_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(NativeBuildError, match=r"HOME is not set, .* set XDG_CACHE_HOME"):
        default_build_dir()


def test_a_build_folder_from_which_nothing_can_run_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(tmp_path)
    noexec = os.statvfs_result((*real[:8], real.f_flag | os.ST_NOEXEC, *real[9:]))
    monkeypatch.setattr(os, "statvfs", lambda path: noexec)
    with pytest.raises(NativeBuildError, match=r"build is on a file system mounted noexec"):
        compile_c(source, tmp_path / "build")
    assert list((tmp_path / "build").iterdir()) == []
