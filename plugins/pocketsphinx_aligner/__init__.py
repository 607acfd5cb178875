"""An aligner that listens to English singing: forced alignment with PocketSphinx."""
