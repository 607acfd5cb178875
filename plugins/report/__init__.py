"""One page to hear and judge a run: learning curves, and samples beside the music they go on from.

It reads what the rooms leave on disk (figures of trainings, token corpora, decoded audio) and
knows no network. ``page.write_report`` makes the page.
"""
