"""Many runs: suites and searches, in workers, resumed."""
