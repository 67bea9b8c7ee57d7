"""What a resumed run must share with the run that began, and what it may change with a word about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The inputs of a run; they are kept in its checkpoint.

    Attributes:
        fixed: hashes and names whose change makes another run of it (teacher, networks, adapters): an error.
        data: hashes and names that may change (clips, prompts, options of the data): a warning that names them.
    """

    fixed: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)

    def entries(self) -> dict[str, dict[str, str]]:
        """As the checkpoint keeps it."""
        return {"fixed": dict(self.fixed), "data": dict(self.data)}


def told(options: Any, *names: str) -> dict[str, str]:
    """Options of a command by name, as an identity keeps them."""
    return {f"--{n.replace('_', '-')}": str(getattr(options, n)) for n in names}


def check_fixed(identity: Identity, saved: Mapping[str, Any], checkpoint: Path) -> None:
    """Refuse to go on with other inputs than the run began with.

    Raises:
        ValueError: one differs; checkpoints from before 0.4 do not say and are taken.
    """
    known = saved.get("identity", {}).get("fixed", {})
    changed = [f"{n}: {known[n]}, now {value}" for n, value in identity.fixed.items() if known.get(n, value) != value]
    if changed:
        raise ValueError(
            f"{checkpoint} was begun with other inputs ({'; '.join(changed)}), and its weights go with those. Give the "
            "inputs it began with, or another --out for a new run."
        )


def changes(identity: Identity, description: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """What else is other than when the run began: data and numbers, but for the number of steps."""
    data, known = saved.get("identity", {}).get("data", {}), saved.get("description", {})
    found = [f"{n}: {data[n]} -> {value}" for n, value in identity.data.items() if data.get(n, value) != value]
    return found + [f"{k}: {known[k]} -> {v}" for k, v in description.items() if k != "steps" and known.get(k, v) != v]
