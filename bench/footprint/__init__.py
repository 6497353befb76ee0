"""What serving costs beside answering: starting, resting, memory, a long day, a useless cache."""
