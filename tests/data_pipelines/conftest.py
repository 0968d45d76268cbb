"""What several tests of labels start from."""

from pathlib import Path

import pytest

from data_pipelines.sources import SOURCES
from experiments.prepare import prepare

LAYOUTS = Path(__file__).parents[1] / "layouts"


@pytest.fixture(scope="module")
def four_views(tmp_path_factory):
    """A record of the four views that the exports show, at another size."""
    out = tmp_path_factory.mktemp("data") / "scene"
    settings = SOURCES["nerfstudio"].settings(raw=str(LAYOUTS / "nerfstudio"), views=4)
    prepare("nerfstudio", settings, out, workers=None, progress=False)
    return out
