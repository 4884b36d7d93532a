"""Any file as a configuration: it is one, or it is refused with the file's name and what is wrong."""

from pathlib import Path

import yaml
from hypothesis import strategies as st

from tests.support.fuzz import INPUTS, changed, cut_or_spoilt, fuzz
from tests.support.table_builders import config_values
from veltair.config import Config, ConfigError, load
from veltair.config.vary import check_variations

SHIPPED = Path(__file__).parents[1] / "workflow" / "config"
MANY_CORE = (SHIPPED / "many_core.yaml").read_bytes()
VARIED = {
    **config_values(),
    "study": {"enabled": True, "policies": ["Planaria", "FcfsMin"], "machine": "host"},
    "sensitivity": {
        "start": {"title": "start", "unit": "µs", "key": "simulated.start_cost_us", "values": [0, 55]},
        "alpha": {"title": "alpha", "key": "policies.*.options.alpha", "values": [0.8, 1.0]},
    },
}
YAML_PIECES = st.sampled_from(
    [
        *(
            "a",
            "b: 1",
            "models:",
            "- ",
            "  ",
            "\n",
            "\t",
            "{",
            "}",
            "[",
            "]",
            ",",
            ": ",
            "? ",
            "&a ",
            "*a",
            "<<: *a",
        ),
        *(
            "!!binary ",
            "!!set {a, b}",
            "!!omap [a: 1]",
            "!!float x",
            "!!timestamp 2026-13-45",
            "!!int 1:99",
            "|\n",
            ">-",
        ),
        *(
            "010",
            "1:30",
            "0x",
            "1e3",
            ".nan",
            ".inf",
            "2026-01-01",
            "yes",
            "~",
            "'",
            '"',
            "#",
            "---",
            "...",
            "%YAML 9.9\n",
        ),
        *("\ufeff", "\x00", "\u2028", "\ud7ff", "é"),
    ]
)


def take(content: bytes, folder: Path) -> None:
    path = folder / "any.yaml"
    path.write_bytes(content)
    try:
        config = load([path])
        check_variations(config)
    except ConfigError as error:
        assert str(path) in str(error) or "the run with" in str(error)
    else:
        assert isinstance(config, Config)


@INPUTS
def test_values_that_no_key_takes_are_refused(inputs: int, tmp_path: Path) -> None:
    documents = changed(VARIED).map(lambda values: yaml.safe_dump(values, allow_unicode=True).encode("utf-8"))
    fuzz(inputs, documents, lambda content: take(content, tmp_path))


@INPUTS
def test_a_spoilt_file_is_refused(inputs: int, tmp_path: Path) -> None:
    fuzz(inputs, cut_or_spoilt(MANY_CORE), lambda content: take(content, tmp_path))


@INPUTS
def test_any_piece_of_yaml_is_refused(inputs: int, tmp_path: Path) -> None:
    documents = st.lists(YAML_PIECES | st.text(max_size=4), max_size=20).map("".join)
    fuzz(
        inputs,
        documents.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=100),
        lambda content: take(content, tmp_path),
    )
