"""What stands between clients and server: attacks, compression, privacy and robust aggregation, declared in a suite."""
