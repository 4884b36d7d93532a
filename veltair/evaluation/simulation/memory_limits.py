"""The memory for models in simulated runs: by bytes of weights and the bandwidth at which they come."""

from veltair.config.study_keys import Simulated
from veltair.serving.loop.policy import Context, MemoryLimits


def memory_limits(simulated: Simulated, context: Context) -> MemoryLimits | None:
    """Return the limits that the configuration gives; None if it gives none.

    A load takes the bytes of a model's weights over the bandwidth. Raises ValueError for a model that is
    larger than the memory, LookupError for tables that do not know its bytes.
    """
    if simulated.memory_mb is None:
        return None
    model_bytes = {}
    for name, model in context.models.items():
        nbytes = model.weight_bytes
        if nbytes is None:
            raise LookupError(
                f"simulated.memory_mb is {simulated.memory_mb:g}, but the tables do not say how many bytes "
                f"of weights {name} has, as an earlier program made them; rerun rule `profile`, or set it to "
                "null"
            )
        model_bytes[name] = nbytes
    megabytes = simulated.load_mb_per_s
    bytes_per_s = context.machine.core_dram_bytes_per_s if megabytes is None else 1e6 * megabytes
    load_s = {name: nbytes / bytes_per_s for name, nbytes in model_bytes.items()}
    try:
        return MemoryLimits(int(1e6 * simulated.memory_mb), model_bytes, load_s)
    except ValueError as error:
        raise ValueError(f"simulated.memory_mb is {simulated.memory_mb:g}: {error}") from error
