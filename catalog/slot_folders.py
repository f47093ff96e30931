"""Whether anything was reported since the index last looked, told by the folders' own times instead of listing 100,000 names.

A name that comes or goes changes its folder's time of change. Times are only compared for being the same, so a clock that jumps
does no harm; and a folder that changed within the last seconds is not believed yet: a file system's time stands still for
milliseconds, and another manifest may have come within the same tick. An object store has no folders: there all is listed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from .places import Folder, Place
from .slots import PLAN, slot_sets

SETTLED = 3.0
"""Seconds after which a folder's time of change is believed."""


def folder_states(place: Place) -> str:
    """The states of all sets of slots as one text, empty when it would not tell whether something came."""
    if not isinstance(place, Folder):
        return ""
    now, states = time.time(), dict[str, list[int]]()
    for name, _, _ in slot_sets(place):
        folder = Path(place.address, name)
        try:
            times = [(folder / PLAN).stat().st_mtime_ns, (folder / PLAN).stat().st_ino]
            with os.scandir(folder) as entries:
                generations = sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
            for generation in generations:
                times.append(Path(generation).stat().st_mtime_ns)
                conflicts = Path(generation, "conflicts")
                times.append(conflicts.stat().st_mtime_ns if conflicts.is_dir() else 0)
        except OSError:
            return ""
        if any(abs(now - changed / 1e9) < SETTLED for changed in times):
            return ""
        states[name] = times
    return json.dumps(states, sort_keys=True)
