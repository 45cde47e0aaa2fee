"""What a client can lose: its examples, as an attacker finds them from what it sends."""
