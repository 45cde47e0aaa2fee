"""Which clients a round can ask, how long their work takes and what it draws: availability, devices, deadlines."""
