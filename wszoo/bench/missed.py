"""What is told of a missed goal: by how much, and where the time goes on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

HEADING = "Missed, by how much and why"
CONVOLUTION, NORM, WS, REST = "convolution", "norm", "WS", "rest"  # parts of a pass
KERNELS, ALLOCATION, CALLS = "kernels", "allocation", "calls"  # parts of an operator
_EXPLAINED = (
    f"Milliseconds, ours / theirs. Of a pass, {REST} is pooling, activations, sums, optimizer and "
    f"all that Python and the profiler take between operators. Of an operator, {CALLS} is what "
    f"kernels of two filters take, {ALLOCATION} what asking for memory takes beyond that."
)


class Missed(Protocol):
    """What of a row its profile takes over."""

    @property
    def name(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def ratio(self) -> float: ...
    @property
    def goal(self) -> float | None: ...


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Where the time of a row goes.

    Attributes:
        name: Of the row, as are the next three.
        peer: See there.
        ratio: See there.
        goal: See there.
        ours: Milliseconds by part.
        theirs: Likewise of the peer, with the same parts.
        floor: Of an operator: milliseconds of one product forward and one sum backward over the
            same kernels, which read and write each number no more often than any operator must.
    """

    name: str
    peer: str
    ratio: float
    goal: float
    ours: dict[str, float]
    theirs: dict[str, float]
    floor: float | None = None

    @classmethod
    def of(
        cls,
        row: "Missed",
        ours: dict[str, float],
        theirs: dict[str, float],
        floor: float | None = None,
    ) -> "Profile":
        """The profile of ``row``, which has a goal."""
        assert row.goal is not None
        return cls(
            name=row.name,
            peer=row.peer,
            ratio=row.ratio,
            goal=row.goal,
            ours=ours,
            theirs=theirs,
            floor=floor,
        )

    @property
    def why(self) -> str:
        """By how much the goal was missed, and what stands against it."""
        beyond = f"{self.ratio:.3f} where {self.goal:.2f} was to be reached"
        theirs = sum(self.theirs.values())
        if self.floor is not None:
            least, able = self.floor / theirs, "no operator meets"
            reason = (
                f"one product forward and one sum backward over the same kernels take "
                f"{self.floor:.1f} ms, {least:.2f} of theirs"
            )
        else:
            bare = sum(self.ours.values()) - self.ours[NORM] - self.ours[WS]
            least, able = bare / theirs, "no norm and no WS meet"
            reason = f"were norm and WS for nothing, ours would take {least:.2f} of theirs"
        if least > self.goal:
            return f"{beyond}: {reason}, so {able} the goal here"
        part = max(self.ours, key=lambda each: self.ours[each] - self.theirs[each])
        more = self.ours[part] - self.theirs[part]
        return f"{beyond}: {reason}; what weighs most beside theirs is {part}, {more:+.1f} ms"


def missed_lines(profiles: Sequence[Profile]) -> list[str]:
    """For a terminal."""
    if not profiles:
        return []
    lines = ["", HEADING, f"  {_EXPLAINED}"]
    for profile in profiles:
        parts = ", ".join(f"{part} {_both(profile, part)}" for part in profile.ours)
        lines += [f"  {profile.name}, against {profile.peer}", f"    {parts}", f"    {profile.why}"]
    return lines


def missed_page(profiles: Sequence[Profile], link: str) -> str:
    """A section in Markdown: a table per kind of parts, and a sentence per row.

    Args:
        profiles: Of the rows that missed their goals.
        link: To the file that they come from.
    """
    lines = [f"# {HEADING}", "", f"From [the results]({link}). {_EXPLAINED}", ""]
    for parts in dict.fromkeys(tuple(profile.ours) for profile in profiles):
        lines += [f"| row | against | {' | '.join(parts)} | together |"]
        lines += ["| --- " * (len(parts) + 3) + "|"]
        for profile in profiles:
            if tuple(profile.ours) == parts:
                cells = [_both(profile, part) for part in parts]
                lines.append(
                    f"| {' | '.join((profile.name, profile.peer, *cells, _all(profile)))} |"
                )
        lines.append("")
    lines += [f"- {profile.name}, against {profile.peer}: {profile.why}." for profile in profiles]
    return "\n".join([*lines, ""])


def _both(profile: Profile, part: str) -> str:
    return f"{profile.ours[part]:.1f} / {profile.theirs[part]:.1f}"


def _all(profile: Profile) -> str:
    return f"{sum(profile.ours.values()):.1f} / {sum(profile.theirs.values()):.1f}"
