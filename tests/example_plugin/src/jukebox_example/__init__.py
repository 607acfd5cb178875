"""Plugins of a third party, to show and to test every kind that there is."""
