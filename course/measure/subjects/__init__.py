"""What `python3 -m course measure` times, one file per subject: its cases for a CPU and for a GPU."""
