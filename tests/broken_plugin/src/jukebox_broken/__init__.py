"""Plugins that can't be loaded, each in its own way."""
