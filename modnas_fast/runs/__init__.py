"""What every long run shares: its configuration, its processes, stop signals, schedule and checkpoints."""
