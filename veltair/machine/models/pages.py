"""Memory of its own for large arrays: it goes back when it is freed, and lies in large pages where it can."""

import ctypes
import mmap

# Of x86-64. A network reads its weights from end to end: with pages of 4 KiB it looks up an address for each.
LARGE_PAGE_BYTES = 2**21


def anonymous(nbytes: int) -> mmap.mmap:
    """Return private memory of so many bytes, zeros.

    Linux is asked for large pages where whole ones fit, so that no memory is taken for the rest of one.
    """
    # An allocator would keep what is freed for later, so that evicting a model gave nothing back.
    pages = mmap.mmap(-1, max(1, nbytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    start = -address % LARGE_PAGE_BYTES
    length = (nbytes - start) // LARGE_PAGE_BYTES * LARGE_PAGE_BYTES
    if length > 0:
        pages.madvise(mmap.MADV_HUGEPAGE, start, length)
    return pages
