"""The published Jukebox checkpoints: `convert` makes model folders of them, `verify` compares what
they compute with golden cases.

It reads the files that others publish, and knows how their tensors and settings are called; no
room knows any of that.
"""
