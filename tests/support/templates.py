"""The shipped templates: title of the card, name of the API file and of links, files."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import setup

sys.path.insert(0, str(setup.ROOT / "tests" / "tools"))

import make_workflows

FOLDER = setup.ROOT / "workflows"


@dataclass(frozen=True)
class Template:
    """One of them."""

    title: str
    name: str

    @property
    def page_file(self) -> Path:
        """What the page opens."""
        return FOLDER / f"{self.title}.json"

    @property
    def image(self) -> Path:
        """The card's."""
        return FOLDER / f"{self.title}.jpg"

    @property
    def linked_file(self) -> Path:
        """What the host sends for a link."""
        return FOLDER / f"{self.name}.json.gz"

    def page(self) -> dict[str, Any]:
        """In the page's format."""
        return json.loads(self.page_file.read_text())

    def api(self) -> dict[str, Any]:
        """In API format."""
        return json.loads((FOLDER / "api" / f"{self.name}.json").read_text())


TEMPLATES = [Template(graph.title, graph.name) for graph in (build() for build in make_workflows.GRAPHS)]
AUTHORS = {"videolcm_text_to_video_authors_weights", "videolcm_depth_from_real_footage"}
"""Those that show VideoLCM's authors' weights."""
SD15 = {
    "videolcm_animatelcm_text_to_video",
    "videolcm_animatelcm_depth",
    "videolcm_animatelcm_image_to_video",
    "videolcm_animatelcm_long_video",
    "videolcm_mcm_animatediff",
}
"""Those on Stable Diffusion 1.5 with published motion modules."""
NEED_FILES = AUTHORS | SD15
"""All others run from a clean clone."""
