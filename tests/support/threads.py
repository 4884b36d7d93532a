"""This process's threads, as the kernel lists them."""

import threading
from pathlib import Path


def threads_of_process() -> list[int]:
    """Return the ids of all threads."""
    return [int(task.name) for task in Path("/proc/self/task").iterdir()]


def threads_named(name: str) -> set[int]:
    """Return the ids of the threads that carry the name."""
    return {int(task.name) for task in Path("/proc/self/task").iterdir() if _name_of(task) == name}


def _name_of(task: Path) -> str | None:
    """Return a thread's name, None if it has ended since its folder was listed."""
    try:
        return (task / "comm").read_text().rstrip("\n")
    except (FileNotFoundError, ProcessLookupError):
        return None


def background_threads() -> list[str]:
    """Return the names of the threads of background workers."""
    return [thread.name for thread in threading.enumerate() if thread.name == "background"]
