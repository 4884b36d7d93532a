"""The core counts at which a machine is looked at: its core unit, doublings of it, and all cores. Pure."""


def doubling(cores: int, unit: int = 1) -> tuple[int, ...]:
    """Return the core counts that a machine's versions are judged at: `unit`, twice it, …, and all cores."""
    if not 1 <= unit <= cores:
        raise ValueError(f"core unit {unit} of {cores} cores; give at least 1 and at most all cores")
    counts = [unit]
    while 2 * counts[-1] < cores:
        counts.append(2 * counts[-1])
    return (*counts, cores) if counts[-1] < cores else tuple(counts)
