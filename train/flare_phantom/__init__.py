"""CT-like phantoms with known lesions, for the demo and the tests."""
