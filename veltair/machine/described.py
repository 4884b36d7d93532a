"""Machines written down in YAML: the described ones that ship here, and the host's once it is measured."""

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from veltair.machine.cpulist import format_cpu_list, parse_cpu_list
from veltair.machine.topology import Machine

FOLDER = Path(__file__).parent.parent / "data" / "machines"


class MachineDescription(BaseModel):
    """The keys of a machine's YAML file; all are required, others are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="the file's name without .yaml")
    cores: int = Field(ge=1, description="number of cores, to check the cache groups against")
    core_unit: int = Field(ge=1, description="step in which cores are given")
    cache_groups: list[str | int] = Field(min_length=1, description="core ids that share an L3, like 0-3,8")
    l2_bytes: int = Field(gt=0, description="L2 of one core, bytes")
    l3_bytes: int = Field(gt=0, description="L3 of one cache group, bytes")
    core_peak_flops: float = Field(gt=0, allow_inf_nan=False, description="one core, float32, FLOP/s")
    dram_bytes_per_s: float = Field(gt=0, allow_inf_nan=False, description="all cores together, bytes/s")
    validated: bool = Field(description="whether a measurement on such a machine stands behind its tables")


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


def read_machine(path: Path) -> Machine:
    """Return the machine of a YAML file. Raises ValueError that names the file and the keys at fault."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} has no keys; it needs {', '.join(MachineDescription.model_fields)}")
    try:
        description = MachineDescription.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()
        )
        raise ValueError(f"{path} does not describe a machine: {faults}") from error
    try:
        return _to_machine(description)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def format_machine(machine: Machine) -> str:
    """Return the YAML text that `read_machine` reads as an equal machine."""
    description = MachineDescription(
        name=machine.name,
        cores=machine.cores,
        core_unit=machine.core_unit,
        cache_groups=[format_cpu_list(group) for group in machine.cache_groups],
        l2_bytes=machine.l2_bytes,
        l3_bytes=machine.l3_bytes,
        core_peak_flops=machine.core_peak_flops,
        dram_bytes_per_s=machine.dram_bytes_per_s,
        validated=machine.validated,
    )
    return yaml.safe_dump(description.model_dump(), sort_keys=False)


def _to_machine(description: MachineDescription) -> Machine:
    groups = tuple(parse_cpu_list(str(group)) for group in description.cache_groups)
    listed = sum(len(group) for group in groups)
    if listed != description.cores:
        raise ValueError(f"cores is {description.cores}, but cache_groups lists {listed}; make them agree")
    return Machine(
        name=description.name,
        core_unit=description.core_unit,
        cache_groups=groups,
        l2_bytes=description.l2_bytes,
        l3_bytes=description.l3_bytes,
        core_peak_flops=description.core_peak_flops,
        dram_bytes_per_s=description.dram_bytes_per_s,
        validated=description.validated,
    )
