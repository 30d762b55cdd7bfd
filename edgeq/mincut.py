"""A minimum s-t cut by Dinic's algorithm (blocking flows over level graphs): pure arithmetic on numbered nodes."""
from __future__ import annotations

from collections import deque
from typing import Final

SOURCE: Final = 0
SINK: Final = 1


class Network:
    """A directed graph with capacities. Edges live in pairs: `edge ^ 1` is the way back of `edge`."""

    def __init__(self) -> None:
        self.outgoing: list[list[int]] = [[], []]  # of SOURCE and SINK
        self.head: list[int] = []
        self.capacity: list[int] = []

    def node(self) -> int:
        self.outgoing.append([])
        return len(self.outgoing) - 1

    def edge(self, tail: int, head: int, capacity: int) -> None:
        for start, end, room in ((tail, head, capacity), (head, tail, 0)):
            self.outgoing[start].append(len(self.head))
            self.head.append(end)
            self.capacity.append(room)

    def source_side(self) -> set[int]:
        """The nodes on the source's side of the minimum cut that has the fewest of them."""
        while SINK in (level := self._levels()):
            unused = [list(edges) for edges in self.outgoing]
            while self._augment(level, unused):
                pass
        return set(level)

    def _levels(self) -> dict[int, int]:
        """Distance from the source of every node that has room left towards it."""
        level, waiting = {SOURCE: 0}, deque([SOURCE])
        while waiting:
            node = waiting.popleft()
            for edge in self.outgoing[node]:
                head = self.head[edge]
                if self.capacity[edge] and head not in level:
                    level[head] = level[node] + 1
                    waiting.append(head)
        return level

    def _augment(self, level: dict[int, int], unused: list[list[int]]) -> bool:
        """Push along one shortest path, without recursion: chains of a network are thousands of nodes long. False when
        none is left."""
        path: list[int] = []
        node = SOURCE
        while node != SINK:
            while unused[node] and not self._leads_on(unused[node][-1], node, level):
                unused[node].pop()
            if unused[node]:
                path.append(unused[node][-1])
                node = self.head[path[-1]]
            elif path:  # a dead end: back, and never again through this edge
                node = self.head[path.pop() ^ 1]
                unused[node].pop()
            else:
                return False
        room = min(self.capacity[edge] for edge in path)
        for edge in path:
            self.capacity[edge] -= room
            self.capacity[edge ^ 1] += room
        return True

    def _leads_on(self, edge: int, node: int, level: dict[int, int]) -> bool:
        return self.capacity[edge] > 0 and level.get(self.head[edge]) == level[node] + 1
