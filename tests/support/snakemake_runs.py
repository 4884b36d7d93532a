"""Runs of Snakemake that share what is imported before the first: for tests that run it many times."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

# Imports what every run needs once, then gives each a process of its own, a copy of this one. The code of the
# project is not imported before: a run takes it from its folder.
_SERVER = """
import json, os, sys
import pandas, pyarrow.parquet, pydantic, ruamel.yaml, snakemake.cli, snakemake.workflow, yaml
for line in sys.stdin:
    folder, arguments, outputs = json.loads(line)
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in enumerate(outputs, start=1):
                os.dup2(os.open(path, os.O_WRONLY), number)
            os.chdir(folder)
            os.environ["PYTHONPATH"] = folder
            sys.path.insert(0, folder)
            sys.argv = ["snakemake", *arguments]
            snakemake.cli.main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@cache
def _server() -> "subprocess.Popen[str]":
    """Start the server of this process; it ends with it, when its input does."""
    return subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def run_snakemake(folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run Snakemake in a folder, with the code that is there, and return its status and what it prints."""
    server, words = _server(), list(map(str, arguments))
    assert server.stdin is not None and server.stdout is not None
    with TemporaryDirectory() as temporary:
        outputs = [Path(temporary) / name for name in ("stdout", "stderr")]
        for path in outputs:
            path.touch()
        server.stdin.write(json.dumps([str(folder), words, list(map(str, outputs))]) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, status, *(path.read_text() for path in outputs))
