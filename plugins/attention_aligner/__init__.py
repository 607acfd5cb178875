"""Word times from where a prior that reads lyrics looks as it models a track's codes.

It knows priors with lyric layers and numbers, no audio. ``aligner.AttentionAligner`` is the plugin.
"""
