"""How a name becomes an object, and the ground that every room stands on.

``plugins.registry`` finds plugins by group and name; ``plugins.ground`` holds what every room
needs and no room owns (errors, files, commands, progress, training loop). Each sub-folder is a
first-party plugin, reached by name only.
"""
