"""How a name becomes an object, and the ground that every room stands on.

``plugins.registry`` finds plugins by group and name; ``plugins.ground`` holds what every room
needs and no room owns (errors, files, commands, progress, training loop). Each sub-folder is a
first-party plugin, reached by name only.
"""

import os

# Pydantic looks for plugins of its own in every entry_points.txt on the path, and dies of one that
# is malformed; this project needs none of them. Read when the first model is made.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
