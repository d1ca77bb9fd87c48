"""Object stores, and a local folder in which files of theirs have a place while they are in work."""
