"""What happens to clients' updates on their way to the server: attacks, compression, clipping, noise, masks, rules."""
