"""Reference numbers and the scripts that make them.

Importing this package lets a torchvision built for CUDA be imported beside a torch for CPU: its own
operators are declared and never called (transformers uses its resizing, which is plain torch).
"""

import importlib.util
import re
from pathlib import Path

import torch

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")
_TORCHVISION = importlib.util.find_spec("torchvision")
if _TORCHVISION is not None and torch.version.cuda is None:
    _FOLDER = Path(_TORCHVISION.origin).parent
    if "+cu" in (_FOLDER / "version.py").read_text():
        _TEXT = (_FOLDER / "_meta_registrations.py").read_text()
        for _NAME in sorted({*re.findall(r'register_meta\("(\w+)"', _TEXT), *re.findall(r"torchvision::(\w+)", _TEXT)}):
            _LIBRARY.define(f"{_NAME}(Tensor x) -> Tensor")
