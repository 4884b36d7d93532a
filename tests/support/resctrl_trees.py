"""A tree of files like that of Linux's resctrl."""

from pathlib import Path

import pytest

from veltair.machine.topology import resctrl


def tree(root: Path, mask: str = "fffff", fewest: int = 1, parts: int = 16, schemata: str = "") -> Path:
    """Return the root of a tree that says this, as the kernel writes it."""
    info = root / "info" / "L3"
    info.mkdir(parents=True)
    (info / "cbm_mask").write_text(f"{mask}\n")
    (info / "min_cbm_bits").write_text(f"{fewest}\n")
    (info / "num_closids").write_text(f"{parts}\n")
    (root / "schemata").write_text(schemata or f"    MB:0=100;1=100\n    L3:0={mask};1={mask}\n")
    return root


def removals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let groups be removed with their files, which the kernel's own have no need of; return which were."""
    groups: list[str] = []

    def remove(group: Path) -> None:
        for file in group.iterdir():
            file.unlink()
        group.rmdir()
        groups.append(group.name)

    monkeypatch.setattr(resctrl, "_remove", remove)
    return groups
