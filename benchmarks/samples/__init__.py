"""Models made by hand that both tests and benchmarks run."""
