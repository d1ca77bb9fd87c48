"""How well masks agree with a reference, by the rules of the challenge."""
