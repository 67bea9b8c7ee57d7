"""What every training method shares: processes, random numbers, files, memory, networks that follow, progress."""
