"""Which cases there are, and which to train on."""
