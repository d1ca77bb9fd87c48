"""Workers on machines that a cluster gives out."""
