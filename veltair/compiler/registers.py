"""The vector registers of a CPU, and how busy a tile of sums keeps its arithmetic. Pure."""

from dataclasses import dataclass

FMA_LATENCY_CYCLES = 4
FMAS_PER_CYCLE = 2  # and as many loads: x86 cores since Haswell and Zen 2


@dataclass(frozen=True, slots=True)
class Registers:
    """The vector registers of a CPU: float32 lanes of each, and how many there are."""

    lanes: int
    count: int

    def efficiency(self, rows: int, vectors: int) -> float:
        """Return the share of a core's peak that rows x vectors of sums allow, 0 if they do not fit.

        Counted for one step of the reduction: its multiply-adds against its loads (each vector of columns, a
        broadcast of each row) and against the latency of a multiply-add, which each sum waits for.
        """
        sums = rows * vectors
        if sums + min(vectors, rows) + 1 > self.count:
            return 0.0
        cycles = max(sums, vectors + rows, FMA_LATENCY_CYCLES * FMAS_PER_CYCLE) / FMAS_PER_CYCLE
        return sums / FMAS_PER_CYCLE / cycles


AVX2 = Registers(lanes=8, count=16)
AVX512 = Registers(lanes=16, count=32)
