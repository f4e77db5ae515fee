"""What is told of a missed goal: by how much, and where the time goes on both sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

HEADING = "Missed, by how much and why"
CONVOLUTION, NORM, WS, REST = "convolution", "norm", "WS", "rest"  # parts of a pass
KERNELS, ALLOCATION, CALLS = "kernels", "allocation", "calls"  # parts of an operator
_NOTABLE = 0.01  # of their time: what is less is not told of
_EXPLAINED = (
    f"Milliseconds on the wall, ours / theirs, in a profile after the run. Of a pass, {REST} is "
    f"pooling, activations, sums, optimizer and all that Python and the profiler take between "
    f"operators. Of an operator, {CALLS} is what kernels of two filters take, {ALLOCATION} what "
    f"asking for memory takes beyond that."
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
        ours, theirs = sum(self.ours.values()), sum(self.theirs.values())
        if ours / theirs <= self.goal:
            return (
                f"{beyond}; in the profile it was {ours / theirs:.3f}, which meets the goal and "
                f"explains nothing: as far as this machine repeats itself, it may be either"
            )
        found = f"{beyond}, {ours / theirs:.3f} in the profile: {self._least(theirs)}"
        more = {part: self.ours[part] - self.theirs[part] for part in self.ours}
        part = max(more, key=lambda each: more[each])
        if more[part] < _NOTABLE * theirs:
            return found
        return f"{found}; what weighs most beside theirs is {part}, {more[part]:+.1f} ms"

    def _least(self, theirs: float) -> str:
        """What is beyond the reach of the layers that this zoo has in the place of others."""
        if self.floor is not None:
            return (
                f"one product forward and one sum backward over the same kernels, called as here, "
                f"take {self.floor:.1f} ms, {self.floor / theirs:.2f} of theirs"
            )
        bare = theirs - self.theirs[NORM] - self.theirs[WS]
        return f"without their norm and WS, theirs would take {bare / theirs:.2f} of their time"


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
