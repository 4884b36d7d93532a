import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in ("models", "workflow")),
    ROOT / "CONTRIBUTING.md",
]
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
# Made by a run, not kept in the repository: of these only the names are checked.
GENERATED = ("results", "figures")
NAMES_OF_GENERATED = [
    ROOT / "Makefile",
    ROOT / "veltair" / "evaluation" / "__main__.py",
    ROOT / "veltair" / "evaluation" / "experiment" / "layout.py",
    ROOT / "veltair" / "evaluation" / "experiment" / "scenario.py",
    ROOT / "veltair" / "evaluation" / "measurement" / "steps.py",
    ROOT / "veltair" / "machine" / "costs" / "folder.py",
    *sorted((ROOT / "workflow" / "rules").glob("*.smk")),
    *sorted((ROOT / "workflow" / "config").glob("*.yaml")),
]
SUFFIXES = {".md", ".txt", ".toml", ".yml"}  # of files at the top, which have no slash
# Names that a page itself proposes.
EXAMPLES = {"results/mine/", "results/shipped/", "figures/mine/", "veltair/data/validation/MACHINE.json"}
OPTIONS_WITH_VALUE = {"--cores": 1, "--configfile": 99}  # so many words that follow are no targets


def _code(text: str) -> Iterator[str]:
    """Yield each line of code of a page: of its blocks, and what stands between backticks."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    prose = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def _paths(page: Path) -> Iterator[str]:
    """Yield what a page names as a path, from the top of the repository."""
    prose = re.sub(r"^```\w*\n.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`\n]+)`", prose):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", span) and ("/" in span or (ROOT / span).suffix in SUFFIXES):
            yield span


def _is_there(path: str) -> bool:
    return (ROOT / path).exists()


def _is_generated(path: str) -> bool:
    top, *parts = path.rstrip("/").split("/")
    if top not in GENERATED:
        return False
    names = "\n".join(file.read_text() for file in NAMES_OF_GENERATED)
    stems = [part.partition(".")[0] for part in parts]
    return all(stem.isupper() or stem in names for stem in stems)


def _links(page: Path) -> list[str]:
    return [
        target
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if not target.startswith(("http://", "https://"))
    ]


def _headings(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def _targets(program: str) -> Iterator[tuple[str, str]]:
    """Yield page and target for each call of `make` or `snakemake` that a page shows."""
    for page in PAGES:
        for line in _code(page.read_text()):
            words = shlex.split(line, comments=True) if line.startswith(f"{program} ") else []
            skipped = 0
            for word in words[1:]:
                if word.startswith("-"):
                    skipped = OPTIONS_WITH_VALUE.get(word, 0)
                elif skipped:
                    skipped -= 1
                elif "=" not in word:
                    yield page.name, word


def _rules() -> set[str]:
    """Return the names of the workflow's rules, those that vary another rule included."""
    text = "\n".join(file.read_text() for file in (ROOT / "workflow" / "rules").glob("*.smk"))
    return set(re.findall(r"^(?:rule|use rule \w+ as) (\w+)(?: with)?:", text, re.MULTILINE))


def _messages() -> list[str]:
    """Return every text in the sources, with what is filled in as an ellipsis, without backticks."""
    found = [(ROOT / "Makefile").read_text()]
    for file in (ROOT / "veltair").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [text.replace("`", "") for text in found]


def _quoted_messages() -> list[str]:
    rows = re.findall(r"^\| (.+?) \|", TROUBLESHOOTING.read_text(), re.MULTILINE)
    return [span for row in rows if "(Snakemake)" not in row for span in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_there_or_is_made_by_a_run(page: Path) -> None:
    named = [path for path in _paths(page) if path not in EXAMPLES]
    assert [path for path in named if not _is_there(path) and not _is_generated(path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for target in _links(page):
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (heading and heading not in _headings(file)):
            broken.append(target)
    assert broken == []


def test_every_make_target_that_a_page_names_is_one() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = list(_targets("make"))
    assert named
    assert [(page, target) for page, target in named if target not in known] == []


def test_every_snakemake_target_that_a_page_names_is_a_rule() -> None:
    known = _rules()
    named = list(_targets("snakemake"))
    assert named
    assert [(page, target) for page, target in named if target not in known] == []


def test_every_module_that_a_page_runs_exists() -> None:
    lines = [line for page in PAGES for line in _code(page.read_text())]
    modules = [match[1] for line in lines if (match := re.match(r"python3? -m ([\w.]+)", line))]
    assert modules
    assert [module for module in modules if importlib.util.find_spec(module) is None] == []


def test_every_message_that_troubleshooting_quotes_is_in_the_sources() -> None:
    messages, quoted = _messages(), _quoted_messages()
    patterns = [re.escape(text.replace("'…'", "…")).replace("…", r"[^\n]*") for text in quoted]
    missing = [
        text
        for text, pattern in zip(quoted, patterns, strict=True)
        if not any(re.search(pattern, message) for message in messages)
    ]
    assert len(quoted) > 40
    assert missing == []


def test_the_workflow_page_lists_every_rule_in_its_table() -> None:
    page = (ROOT / "workflow" / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == _rules()


def test_the_readme_is_about_one_screen() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_no_page_but_the_generated_ones_holds_a_dated_measurement() -> None:
    typed = [page for page in PAGES if page.name not in ("results.md", "layer_times.md", "what-changed.md")]
    assert [page.name for page in typed if re.search(r"\b20\d\d-\d\d-\d\d\b", page.read_text())] == []
    assert [page.name for page in typed if re.search(r"\d ± \d", page.read_text())] == []


@pytest.mark.parametrize("package", ["evaluation", "serving", "machine", "compiler"])
def test_the_page_of_the_design_shows_the_arrows_of_the_import_contract(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one.get("containers") == [f"veltair.{package}"])
    rooms = [[room for room in layer.split(" | ") if _is_room(package, room)] for layer in layers]
    arrows = " → ".join(" \\| ".join(layer) for layer in rooms if layer)
    page = (ROOT / "docs" / "design.md").read_text()
    assert re.search(rf"^\| `veltair/{package}/` \|.*\| {re.escape(arrows)} \|$", page, re.MULTILINE), arrows


def _is_room(package: str, name: str) -> bool:
    return (ROOT / "veltair" / package / name).is_dir()
