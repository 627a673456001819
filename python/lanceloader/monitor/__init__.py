"""What an iteration did: metrics, statistics, reports, traces, progress bars."""
