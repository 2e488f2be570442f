"""What changed since a result was made: files, settings, models and catalogues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # settings are compared without Spark too
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class FileChanges:
    """Numbers of files that are new, changed in size or time, gone, or as they were."""

    new: int
    changed: int
    removed: int
    same: int

    def __str__(self) -> str:
        return f"{self.new} new, {self.changed} changed, {self.removed} removed, {self.same} as they were"


def file_changes(before: DataFrame, now: DataFrame, same: int = 0) -> FileChanges:
    """Compare two listings of files, frames of FILES; `same` files beside these are known to be as they were."""
    from pyspark.sql import functions as F

    stamp = F.struct("size", "modified_ns")
    pairs = before.select("path", stamp.alias("old")).join(now.select("path", stamp.alias("new")), "path", "full")
    kind = (
        F.when(F.col("old").isNull(), "new")
        .when(F.col("new").isNull(), "removed")
        .when(F.col("old") == F.col("new"), "same")
        .otherwise("changed")
    )
    counted = pairs.groupBy(kind.alias("kind")).count().collect()
    counts = {row["kind"]: row["count"] for row in counted}
    return FileChanges(counts.get("new", 0), counts.get("changed", 0), counts.get("removed", 0), counts.get("same", 0) + same)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dictionary to dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def value_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List ``key: old -> new`` of every value that differs, in the order of the keys; what one side lacks is called none."""
    old, new = flat(before), flat(now)
    return [f"{key}: {old.get(key, 'none')} -> {new.get(key, 'none')}" for key in sorted(old | new) if old.get(key) != new.get(key)]
