"""Machines written down in YAML: the described ones that ship here, and the host's once it is measured."""

from dataclasses import fields, replace
from math import ceil, inf, isfinite
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from veltair.config.yaml_file import read_yaml
from veltair.data import shipped
from veltair.machine.topology.cpulist import format_cpu_list, parse_cpu_list
from veltair.machine.topology.topology import Machine

FOLDER = shipped("machines")
SCALED = "scaled"
# Keys of older descriptions that no model reads.
REMOVED = (
    *("l2_bytes_per_s", "l3_bytes_per_s", "all_l2_bytes_per_s", "all_l3_bytes_per_s"),
    "dram_latency_s",
)

Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Clock = tuple[Annotated[int, Field(ge=1)], Speed]


class MachineDescription(BaseModel):
    """The keys of a machine's YAML file; those without a default are required, others are refused.

    A key that may be left out stands for what is not known: it then neither limits nor costs anything.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="the file's name without .yaml")
    cores: int = Field(ge=1, description="number of cores, to check the cache groups against")
    core_unit: int = Field(ge=1, description="step in which cores are given")
    cache_groups: list[str | int] = Field(min_length=1, description="core ids that share an L3, like 0-3,8")
    l2_bytes: int = Field(gt=0, description="L2 of one core, bytes")
    l3_bytes: int = Field(gt=0, description="L3 of one cache group, bytes")
    core_peak_flops: Speed = Field(description="one core, float32, FLOP/s, at the clock of all cores at work")
    dram_bytes_per_s: Speed = Field(description="DRAM reads of all cores together, bytes/s")
    validated: bool = Field(description="whether a measurement on such a machine stands behind its tables")
    vector_bits: int = Field(256, gt=0, description="widest vectors it runs at its peak, 256 or 512")
    clock_factors: list[Clock] | None = Field(
        None, min_length=1, description="[active cores, clock relative to that of all cores at work]"
    )
    link_groups: int | None = Field(None, ge=1, description="cache groups that share one link to memory")
    link_bytes_per_s: Speed | None = Field(None, description="reads over one such link, bytes/s")
    core_dram_bytes_per_s: Speed | None = Field(None, description="DRAM reads of one core alone, bytes/s")
    launch_s: Seconds | None = Field(None, description="from a kernel's start until all its cores work, s")
    join_s: Seconds | None = Field(None, description="from the last core's end until the kernel's, s")


class Scaling(BaseModel):
    """The key `scaled`: another machine's description, and how many cores it is to have."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    source: str = Field(alias="from", min_length=1)
    cores: int = Field(ge=1)


class ScaledDescription(BaseModel):
    """The keys of a file that scales another machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    scaled: Scaling


def described(name: str, folder: Path = FOLDER) -> Machine:
    """Return the machine described in `folder`/`name`.yaml.

    Raises LookupError, listing the known names, if there is none, and ValueError as `read_machine` does.
    """
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise LookupError(
            f"no machine {name!r} is described in {folder} (known: {', '.join(known) or 'none'}); "
            f"name one of these or write {name}.yaml there"
        )
    machine = read_machine(folder / f"{name}.yaml")
    if machine.name != name:
        raise ValueError(f"{folder / name}.yaml calls its machine {machine.name!r}; name it {name!r}")
    return machine


def is_described(name: str, folder: Path = FOLDER) -> bool:
    """Return whether a machine of this name is described."""
    return (folder / f"{name}.yaml").is_file()


def description_files(name: str, folder: Path = FOLDER) -> list[Path]:
    """Return the files that describe a machine: its own, and that of the one it scales; none of another."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        return []
    scaled = _read_mapping(path).get(SCALED)
    return [path, *(description_files(scaled["from"], folder) if isinstance(scaled, dict) else [])]


def read_machine(path: Path) -> Machine:
    """Return the machine of a YAML file. Raises ValueError that names the file and the keys at fault."""
    content = _read_mapping(path)
    if removed := [key for key in REMOVED if key in content]:
        raise ValueError(f"{path}: no model reads {', '.join(removed)} any more; delete these keys")
    kind = ScaledDescription if SCALED in content else MachineDescription
    try:
        description = kind.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()
        )
        raise ValueError(f"{path} does not describe a machine: {faults}") from error
    try:
        if isinstance(description, ScaledDescription):
            return _scaled(description, path.parent)
        assert isinstance(description, MachineDescription)
        return _to_machine(description)
    except (ValueError, LookupError) as error:
        raise ValueError(f"{path}: {error}") from error


def format_machine(machine: Machine) -> str:
    """Return the YAML text that `read_machine` reads as an equal machine, each key with what it is."""
    values: dict[str, Any] = {field.name: getattr(machine, field.name) for field in fields(machine)}
    values["cores"] = machine.cores
    values["cache_groups"] = [format_cpu_list(group) for group in machine.cache_groups]
    values["clock_factors"] = [list(point) for point in machine.clock_factors]
    lines = []
    for key, field in MachineDescription.model_fields.items():
        if isinstance(values[key], float) and not isfinite(values[key]):
            continue
        lines.append(f"# {field.description}\n{_format(key, values[key])}")
    return "".join(lines)


def scale(machine: Machine, cores: int, name: str) -> Machine:
    """Return a machine of the same cores and cache groups, but as many as make `cores` cores.

    The bandwidth, the L3 and the links scale with them, and so do the core counts at which the clock falls;
    one core's speeds and the costs of a launch stay. Raises ValueError unless whole cache groups make that
    many.
    """
    size = len(machine.cache_groups[0])
    groups, rest = divmod(cores, size)
    if rest or not groups:
        raise ValueError(
            f"{machine.name} has cache groups of {size} cores, which do not divide {cores}; "
            "give a multiple as `scaled.cores`"
        )
    ratio = cores / machine.cores
    link_groups = min(groups, machine.link_groups)
    dram_bytes_per_s = machine.dram_bytes_per_s * ratio
    counts = sorted({max(1, ceil(count * ratio)) for count, _ in machine.clock_factors})
    return replace(
        machine,
        name=name,
        cache_groups=tuple(tuple(range(size * group, size * (group + 1))) for group in range(groups)),
        dram_bytes_per_s=dram_bytes_per_s,
        core_dram_bytes_per_s=min(machine.core_dram_bytes_per_s, dram_bytes_per_s),
        link_groups=link_groups,
        link_bytes_per_s=machine.link_bytes_per_s * link_groups / machine.link_groups,
        clock_factors=tuple((count, machine.clock(count / ratio)) for count in counts),
        validated=False,
    )


def _format(key: str, value: Any) -> str:
    if isinstance(value, list):
        return f"{key}: {yaml.safe_dump(value, default_flow_style=True, width=inf)}"
    return yaml.safe_dump({key: value})


def _read_mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} has no keys; it needs {', '.join(MachineDescription.model_fields)}")
    return content


def _to_machine(description: MachineDescription) -> Machine:
    groups = tuple(parse_cpu_list(str(group)) for group in description.cache_groups)
    listed = sum(len(group) for group in groups)
    if listed != description.cores:
        raise ValueError(f"cores is {description.cores}, but cache_groups lists {listed}; make them agree")
    given = {key: value for key, value in description.model_dump().items() if value is not None}
    del given["cores"]
    if description.clock_factors is not None:
        given["clock_factors"] = tuple(description.clock_factors)
    return Machine(**{**given, "cache_groups": groups})


def _scaled(description: ScaledDescription, folder: Path) -> Machine:
    scaling = description.scaled
    source = folder / f"{scaling.source}.yaml"
    if source.is_file() and SCALED in _read_mapping(source):
        raise ValueError(f"scaled.from names {scaling.source}, itself scaled; name the one it scales")
    return scale(described(scaling.source, folder), scaling.cores, description.name)
