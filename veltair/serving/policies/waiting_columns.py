"""Who waits, in arrays that are kept from decision to decision."""

from array import array
from collections.abc import Mapping, Sequence
from itertools import compress

from veltair.serving.loop.policy import Pending


class WaitingColumns:
    """The queries that wait, in their turn, with what sharing cores out asks of each.

    Most queries that wait did so at the last decision: only what changed is brought up to date. If the others
    are not as they were, in their turn too, all are read anew; so a policy need not say who has left, but is
    faster if it does. `first_rows` are those of `ShareTables`.
    """

    def __init__(self, first_rows: Mapping[str, int]) -> None:
        self._first_rows = first_rows
        self._entries: list[Pending] = []
        self.ids: list[int] = []
        self.deadlines_s = array("d")
        self.rows = array("i")

    def update(self, waiting: Sequence[Pending]) -> None:
        """Bring it up to date."""
        entries = list(waiting)
        known = len(self._entries)
        if entries[:known] != self._entries:
            known = 0
            for column in (self.ids, self.deadlines_s, self.rows):
                del column[:]
        new, first_rows = entries[known:], self._first_rows
        self._entries = entries
        self.ids.extend([entry.query.id for entry in new])
        self.deadlines_s.extend([entry.query.deadline_s for entry in new])
        self.rows.extend([first_rows[entry.query.model] + entry.next_layer for entry in new])

    def remove(self, query_id: int) -> None:
        """Take out a query that waits no longer."""
        index = self.ids.index(query_id)
        for column in (self._entries, self.ids, self.deadlines_s, self.rows):
            del column[index]

    def among(self, ids: Mapping[int, object]) -> list[Pending]:
        """Return those whose ids are among these, in their turn."""
        return list(compress(self._entries, map(ids.__contains__, self.ids)))
