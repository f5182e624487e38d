"""What every part uses: arrays, randomness, progress, devices, names."""
