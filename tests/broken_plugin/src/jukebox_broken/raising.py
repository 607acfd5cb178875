"""Can't be imported: it raises."""

raise RuntimeError("this package is broken\nin more than one line")
