"""A run that was started before a config key existed goes on, as long as the key has its default."""

import copy
import json

from experiments.configs import common
from experiments.resume import _with_later_keys


def test_keys_that_came_later_count_as_their_defaults():
    new = json.loads(common.get_config().to_json_best_effort())
    kept = copy.deepcopy(new)
    for section, key in (("lifting", "refine"), ("losses", "remat"), ("optimizer", "moments")):
        del kept[section][key]
    assert _with_later_keys(kept, new) == new
    changed = copy.deepcopy(new)
    changed["lifting"]["refine"] = "folded"
    assert _with_later_keys(kept, changed)["lifting"] != changed["lifting"]
