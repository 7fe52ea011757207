"""The names by which a page calls runs: as short as tells them apart."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dermdistill.report.runs import RunRecord

SHOWN_DIGITS = 6  # of a digest that tells two families of one name apart


def named(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records with names for people: as short as tells them apart, with the seed if needed."""
    families: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        families.setdefault(record.family, []).append(record)
    plain = [_ways(members[0]) for members in families.values()]
    names = _shortest(plain)
    found = {}
    for series, (name, members) in enumerate(zip(names, families.values(), strict=True)):
        seeds = [
            (f"{name}, seed {member.provenance.get('seed')}", f"{name}, {member.name}",
             f"{name}, {member.folder.parent.name}/{member.name}")
            for member in members
        ]  # fmt: skip
        own = [name] if len(members) == 1 else _shortest(seeds)
        for member, label in zip(members, own, strict=True):
            found[member.folder] = replace(member, label=label, group=name, series=series)
    return [found[record.folder] for record in records]


def _ways(record: RunRecord) -> tuple[str, ...]:
    """Names of a record's family, the shortest first."""
    made, digest = record.provenance, record.family[1][:SHOWN_DIGITS]
    network = made.get("network") or record.name
    if record.stage == "student" and made.get("method"):
        short, long = str(made["method"]), f"{made['method']}, {network}"
    else:
        short = long = f"{record.stage} {network}"
    full = long + _changed(made.get("network_config") or {})
    return short, long, full, f"{full} ({digest})"


def _changed(network_config: dict[str, Any]) -> str:
    """What training began by doing to a finished network."""
    pruned = network_config.get("prune_ratio")
    cut = f", pruned by {pruned}" if pruned else ""
    return cut + (", in 8 bits" if network_config.get("int8") else "")


def _shortest(ways: Sequence[tuple[str, ...]]) -> list[str]:
    """One name each: the first of its ways that no other one shares."""
    names = [way[0] for way in ways]
    for level in range(1, len(ways[0])):
        shared = Counter(names)
        names = [way[level] if shared[name] > 1 else name
                 for way, name in zip(ways, names, strict=True)]  # fmt: skip
    return names
