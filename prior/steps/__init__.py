"""One-token steps: their seam, kinds of them, and who chooses."""
