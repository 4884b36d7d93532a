"""The JSON schema of the configuration and the page that lists its keys, both made from the keys."""

import json
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from veltair.config.keys import Config
from veltair.config.load import key_paths
from veltair.config.section import NO_UNIT

INTRODUCTION = """\
# Configuration

| file | what it runs |
|---|---|
| `config.yaml` | the default of `make`: two models, eight policies, measured here and simulated |
| `many_core.yaml` | `make many-core`, also part of `make`: a many-core machine, reduced to minutes |
| `paper_sim.yaml` | given after that, `make paper-sim`: the same study under the full protocol, hours |
| `schedulers.yaml` | given after `many_core.yaml` too: every policy of the repository beside the others |
| `remote.yaml` | given after `config.yaml`: a server at a URL under LoadGen, instead of our engine |
| `readings.yaml` | after `many_core.yaml`, `make readings`: what the paper leaves open, all combinations |
| `readings_full.yaml` | after that, `make readings READINGS=full`: more values, queries and seeds, hours |
| `smoke.yaml` | `make smoke`: simulation only, from shipped cost tables, equal to the last bit |
| `paper.yaml` | all seven models and full grids on a server; `make estimate CONFIG=…` tells the hours first |

`make CONFIG=my.yaml` runs a file of yours. `python -m veltair.config FILE...` checks files, the later over
the earlier, and prints every key with the value that a run would use. An unknown key, a value out of range
or a unit in a value (`15ms`) is refused before any work starts.

**Sensitivity**: each entry of `sensitivity` is the run with one key changed, a value at a time, such as
`start_cost: {title: cost of a start, unit: µs, key: simulated.start_cost_us, values: [0, 55, 200]}`. Any key
can be named; `policies.*.options.alpha` is one of several policies. What does not change is simulated once.

**Search on several machines**: start `python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port 9190` on one, and
`python -m tvm.exec.rpc_server --tracker HOST:9190 --key KEY` on each that measures, all of one CPU type (else
times of unlike machines are mixed) and with this environment; then set
`search: {runner: rpc, rpc: {host: HOST, port: 9190, key: KEY, sessions: N}}`. The tracker needs the package
`tornado`. RPC has no authentication: use it in a trusted network only. Building stays on the machine that
searches.

`NAME` stands for a name of your choice. Keys without a default must be given.

| key | type | unit | default | meaning |
|---|---|---|---|---|
"""


def schema_text() -> str:
    """Return the JSON schema of the configuration (draft 2020-12), as the text of its file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def page_text() -> str:
    """Return the page in Markdown that lists every key."""
    schema = Config.model_json_schema()
    rows = [
        _row(path, field, _type(_schema_of(path, schema), schema))
        for path, field in key_paths(Config).items()
        if not _is_group(_schema_of(path, schema))
    ]
    return INTRODUCTION + "\n".join(rows) + "\n"


def _row(path: str, field: FieldInfo, type_text: str) -> str:
    default = "" if field.is_required() else f"`{json.dumps(_default(field))}`"
    extra = field.json_schema_extra
    unit = extra["unit"] if isinstance(extra, dict) else NO_UNIT
    return f"| `{path}` | {type_text} | {unit} | {default} | {field.description} |"


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=False)
    return None if default is PydanticUndefined else to_jsonable_python(default)


def _schema_of(path: str, schema: dict[str, Any]) -> dict[str, Any]:
    found = schema
    for part in path.split("."):
        found = _resolve(found, schema)
        found = found["additionalProperties"] if part == "NAME" else found["properties"][part]
    return found


def _resolve(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "patternProperties" in part:
        part = {**part, "additionalProperties": next(iter(part["patternProperties"].values()))}
    if "$ref" not in part:
        return part
    resolved: dict[str, Any] = schema["$defs"][part["$ref"].rpartition("/")[2]]
    return resolved


def _is_group(part: dict[str, Any]) -> bool:
    return "$ref" in part


def _type(part: dict[str, Any], schema: dict[str, Any]) -> str:
    part = _resolve(part, schema)
    if "anyOf" in part:
        return " or ".join(_type(member, schema) for member in part["anyOf"])
    if "const" in part or "enum" in part:
        return " or ".join(f"`{value}`" for value in part.get("enum", [part.get("const")]))
    inner = part.get("additionalProperties")
    named = _type(inner, schema) if isinstance(inner, dict) else "keys"
    texts = {
        "array": f"list of {_type(part['items'], schema)}" if "items" in part else "list",
        "boolean": "true or false",
        "integer": f"whole number{_range(part)}",
        "null": "null",
        "number": f"number{_range(part)}",
        "object": "keys" if inner is False else f"NAME: {named}",
        "string": "text",
    }
    return texts.get(part.get("type", ""), "any value")


def _range(part: dict[str, Any]) -> str:
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    limits = [f"{sign} {part[name]:.10g}" for name, sign in signs if name in part]
    return f" {', '.join(limits)}" if limits else ""
