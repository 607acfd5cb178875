"""How a track's metadata becomes tensors that a prior can use: labels, timing, lyrics, codes above.

Names are imported when they are first used, so that a command's `--help` answers at once; they
are listed with their types in `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
